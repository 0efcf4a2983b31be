"""Byte-level BPE: a checkpoint's `tokenizer.json`, or one trained here. Any text comes back as it was.

    text -> split by a regular expression -> bytes of UTF-8 -> BPE merges -> ids -> bytes -> text

Special tokens are added tokens. `encode` writes them only when told that the text may hold them: in text from a user
their strings are ordinary characters, so that nobody can write `<｜User｜>` into a prompt.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from wavefold import gguf
from wavefold.atomic import write_text
from wavefold.chat import tokenizer_config
from wavefold.chat.special_tokens import BOS, DSML, END_THINK, EOS, SPECIAL_TOKENS, THINK
from wavefold.system import Notice

FILE_NAME = "tokenizer.json"

SPLIT = (
    r"\p{N}{1,3}"  # digits, at most three together
    r"|\s*[\r\n]+[ \t]*"  # the end of a line with the next one's indentation
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"  # a word, with the blank or sign before it
    r"| ?[^\s\p{L}\p{N}]+(?:[\r\n]+[ \t]*)?"  # signs, up to the next line's first word
    r"|\s+(?!\S)|\s+"  # blanks, leaving one for the word after them
)
"""How trained tokenizers cut text; no token crosses a cut. An indentation is whole, so a prompt may end in one.

On the Python standard library a vocabulary of 2,048 (8,192) packs 3.16 (4.03) bytes into a token with it, and 3.00
(3.74) with DeepSeek-V3's expression, which leaves a line's last blank to the word after it.
"""

SHOWN_TOKENS = frozenset({THINK, END_THINK, DSML})
"""Special tokens that are part of an answer's text: where reasoning begins and ends, and the tags of tool calls."""


class Tokenizer:
    """A byte-level BPE tokenizer. Make one with `load`, `train_tokenizer` or `byte_tokenizer`."""

    def __init__(self, text: str, config_text: str | None = None):
        """`text` is the content of a `tokenizer.json`, `config_text` of the `tokenizer_config.json` beside it.

        Without `config_text` one is written for it (see tokenizer_config.py). Raises ValueError for a `text` that is
        no byte-level BPE, or whose added tokens the library reads under other ids than the file's.
        """
        try:
            self._whole = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the class that tokenizers raises
            raise ValueError(f"not a tokenizer file ({error})") from None
        if not isinstance(self._whole.decoder, decoders.ByteLevel):
            raise ValueError(
                f"decoder {type(self._whole.decoder).__name__} is not allowed; expected ByteLevel, as DeepSeek's have"
            )
        self._whole.no_truncation()
        self._whole.no_padding()
        # Added tokens are found in any text, and not all of the official ones are marked special: here are none.
        self._plain = tokenizers.Tokenizer(self._whole.model)
        if self._whole.normalizer is not None:
            self._plain.normalizer = self._whole.normalizer
        if self._whole.pre_tokenizer is not None:
            self._plain.pre_tokenizer = self._whole.pre_tokenizer
        self._text = text
        _check_added(text, self._whole)
        added = self._whole.get_added_tokens_decoder()
        self._added = frozenset(added)
        self._hidden = frozenset(i for i, token in added.items() if token.content not in SHOWN_TOKENS)
        self._bytes = {
            id_: added[id_].content.encode() if id_ in added else _bytes_of(token)
            for token, id_ in self._whole.get_vocab(with_added_tokens=True).items()
        }
        self._config_text = config_text or tokenizer_config.tokenizer_config({t.content for t in added.values()})

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a checkpoint folder or a GGUF file. Raises ValueError for none that can be used."""
        if gguf.is_gguf(folder):
            try:
                return cls(*gguf.tokenizer_texts(Path(folder), gguf.open_parts(Path(folder)).values))
            except ValueError as error:
                raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
        path = Path(folder) / FILE_NAME
        config = Path(folder) / tokenizer_config.FILE_NAME
        try:
            config_text = config.read_text(encoding="utf-8") if config.is_file() else None
            return cls(path.read_text(encoding="utf-8"), config_text)
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{path}: no such file; expected the tokenizer of the checkpoint") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into the folder, each in one step and private.

        The text of a loaded file is written unchanged.
        """
        for name, text in ((tokenizer_config.FILE_NAME, self._config_text), (FILE_NAME, self._text)):
            write_text(Path(folder) / name, text)

    @property
    def json_text(self) -> str:
        """The content of its `tokenizer.json`, for other libraries."""
        return self._text

    @property
    def added_texts(self) -> tuple[str, ...]:
        """The strings of the special tokens, and of all others that stand outside the merges."""
        return tuple(self._bytes[id_].decode() for id_ in sorted(self._added))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._bytes) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256, as hex, of all that decides the ids of a text: vocabulary, merges, splitting, added tokens.

        Two files with the same fingerprint encode alike, however they are formatted.
        """
        return hashlib.sha256(json.dumps(json.loads(self._whole.to_str()), sort_keys=True).encode()).hexdigest()

    @property
    def chat_template(self) -> str | None:
        """The chat template of the checkpoint's files, a text in Jinja that nothing here follows. None without one."""
        config = json.loads(self._config_text)
        template = config.get("chat_template") if isinstance(config, dict) else None
        return template if isinstance(template, str) else None

    @property
    def bos_id(self) -> int:
        return self.token_id(BOS)

    @property
    def eos_id(self) -> int:
        return self.token_id(EOS)

    def token_id(self, token: str) -> int:
        """The id of a special token, by its string. Raises ValueError when this tokenizer has none."""
        id_ = self._whole.token_to_id(token)
        if id_ is None:
            raise ValueError(f"token {token!r} is not in this tokenizer's vocabulary of {self.vocab_size}")
        return id_

    def has(self, token: str) -> bool:
        """True if the vocabulary holds this special token."""
        return self._whole.token_to_id(token) in self._added

    def lacking(self, tokens: Iterable[str]) -> str | None:
        """The first of these special tokens that the vocabulary does not hold, or None."""
        return next((token for token in tokens if not self.has(token)), None)

    def encode(self, text: str, bos: bool = False, allow_special: bool = False) -> list[int]:
        """`text` as ids, after BOS if `bos`. Special tokens' strings in it become those tokens if `allow_special`."""
        tokenizer = self._whole if allow_special else self._plain
        try:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError:
            text.encode()  # names the place of what cannot be encoded, as UnicodeEncodeError: a ValueError
            raise
        return [self.bos_id, *ids] if bos else ids

    def encode_document(self, text: str) -> list[int]:
        """`text` between BOS and EOS, as training and evaluation see a file."""
        return [*self.encode(text, bos=True), self.eos_id]

    def token_bytes(self, id_: int) -> bytes:
        """The bytes of a token. Special tokens stand for their strings.

        A model's vocabulary may be larger than the tokenizer's: ids without a token stand for U+FFFD.
        """
        return self._bytes.get(id_, b"\xef\xbf\xbd")

    def is_added(self, id_: int) -> bool:
        """True for tokens that stand outside the merges: the special tokens."""
        return id_ in self._added

    def is_hidden(self, id_: int) -> bool:
        """True for tokens that are no part of an answer's text: the special tokens without `SHOWN_TOKENS`."""
        return id_ in self._hidden

    def beginning_with(self, prefix: bytes) -> tuple[int, ...]:
        """The ids whose bytes begin with `prefix`, in ascending order, special tokens left out."""
        # The library's vocabulary comes in another order in every process.
        return tuple(sorted(i for i, text in self._bytes.items() if text.startswith(prefix) and i not in self._added))

    def decode(self, ids: Sequence[int], skip: int = 0, show_special: bool = True) -> str:
        """The text of `ids` after their first `skip` bytes; bytes that are not UTF-8 become U+FFFD.

        Without `show_special`, hidden tokens (`is_hidden`) are left out.
        """
        shown = ids if show_special else [i for i in ids if not self.is_hidden(i)]
        return b"".join(map(self.token_bytes, shown))[skip:].decode("utf-8", errors="replace")


def tokenizer_of(path: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder or a GGUF file; None for a folder without one.

    A GGUF file's vocabulary may be of a kind that is not known here. Then there is none, and a Notice says why. Raises
    ValueError for a file that cannot be read.
    """
    if not gguf.is_gguf(path):
        return Tokenizer.load(path) if (path / FILE_NAME).exists() else None
    gguf.open_parts(path)  # a file that cannot be read is an error
    try:
        return Tokenizer.load(path)
    except ValueError as error:
        warnings.warn(f"{error}; texts cannot be read, token ids can", Notice, stacklevel=2)
        return None


class StreamDecoder:
    """Text of ids that come one at a time. The joined results of `push` and `finish` are the text of `decode`."""

    def __init__(self, tokenizer: Tokenizer, skip: int = 0, show_special: bool = True):
        """The first `skip` bytes belong to the prompt and are left out; without `show_special`, hidden tokens too."""
        self._tokenizer, self._skip, self._show_special = tokenizer, skip, show_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id_: int) -> str:
        """The characters that this token completes, perhaps none; never a part of one."""
        if not self._show_special and self._tokenizer.is_hidden(id_):
            return ""
        text = self._tokenizer.token_bytes(id_)
        skipped, self._skip = text[: self._skip], max(0, self._skip - len(text))
        return self._utf8.decode(text[len(skipped) :])

    def finish(self) -> str:
        """The remaining text: U+FFFD for a character that never got complete. The decoder can then begin again."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer for text like `texts`; the same texts give the same one.

    Ids: the special tokens, BOS 0 and EOS 1 first; the 256 bytes; then up to `vocab_size` the merges of pairs that
    occur twice, fewer when there are not so many. Special tokens' strings in `texts` count as ordinary characters.
    Raises ValueError for a `vocab_size` without room for the special tokens and bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size = {vocab_size} is not allowed; expected at least {smallest}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer.to_str())


def byte_tokenizer() -> Tokenizer:
    """The tokenizer without merges: the special tokens and the 256 bytes. For models that were never trained."""
    return train_tokenizer([], len(SPECIAL_TOKENS) + 256)


def _byte_characters() -> dict[str, int]:
    """The printable characters by which byte-level BPE writes bytes: themselves where printable, else from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


def _check_added(text: str, whole: tokenizers.Tokenizer) -> None:
    """Raises ValueError for an added token that has another id than in `text`, as after a hole (tokenizers 0.23.3)."""
    for token in json.loads(text).get("added_tokens") or ():
        if (found := whole.token_to_id(token["content"])) != token["id"]:
            raise ValueError(
                f"added token {token['content']!r} has id {token['id']}, and the tokenizers library would give it "
                f"{found}: added tokens that model.vocab lacks must follow its ids without a hole"
            )


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError as error:
        raise ValueError(f"token {token!r} holds {error}, which stands for no byte") from None
