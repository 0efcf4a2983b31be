"""Text to tokens and back: the tokenizer and DeepSeek-V4's special tokens. Needs no model."""

from wavefold.chat.tokenizer import StreamDecoder, Tokenizer, byte_tokenizer, train_tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "byte_tokenizer", "train_tokenizer"]
