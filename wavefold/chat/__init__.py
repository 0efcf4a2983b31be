"""Text to tokens and back: the tokenizer, DeepSeek-V4's special tokens, prompts. Needs no model."""

from wavefold.chat.healing import Prompt, heal
from wavefold.chat.tokenizer import StreamDecoder, Tokenizer, byte_tokenizer, tokenizer_of, train_tokenizer

__all__ = ["Prompt", "StreamDecoder", "Tokenizer", "byte_tokenizer", "heal", "tokenizer_of", "train_tokenizer"]
