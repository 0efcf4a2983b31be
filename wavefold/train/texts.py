"""The input of a run: a corpus as token documents, and the tokenizer that encoded them.

    source                    tokenizer
    text, a folder, stdlib    that of --init, else one trained on the text and stored in OUT
    chats                     that of --init, which must have the chat markers, else one trained on the chats
    instruct: and a source    the same; chats are generated from the docstrings in its Python files
    exercises: and a source   the same; rewrites and errors of its functions, whose answers a program checks
    token shards              that of --init, else the one that lies in their folder or beside it; it encoded them

Data for the last part of a run are read with the tokenizer of the run.

Only the answers of chats are learned; of other documents every token is. Chats longer than a sequence are never cut
(`long_chats`), and every id is compared with the vocabulary of the model (`vocabulary`).
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavefold.atomic import write_json
from wavefold.chat.encoding import encode_chat
from wavefold.chat.tokenizer import FILE_NAME, Tokenizer, train_tokenizer
from wavefold.data.batches import Documents, InMemory, as_tokens
from wavefold.data.corpus import Corpus, Document, load_corpus
from wavefold.data.exercises.make import exercises
from wavefold.data.instruct import instruct_chats
from wavefold.data.long_chats import LongChats, fit_chats, fit_documents
from wavefold.data.shards import TokenShards, is_shards, split_shards
from wavefold.data.vocabulary import check_ids, check_shards
from wavefold.system import Notice
from wavefold.train.identity import of_documents, of_shards
from wavefold.waves.agreement import by_first
from wavefold.waves.group import Group

ASKED: dict[str, Callable[[Sequence[Document]], list[list[dict[str, str]]]]] = {
    "instruct:": lambda documents: instruct_chats(documents, 0),
    "exercises:": lambda documents: [exercise.chat for exercise in exercises(documents, 0)],
}
"""How chats are made of documents, by the word before a source."""
SOURCE = "tokenizer_source.json"


@dataclass(frozen=True)
class Text:
    """Documents to learn from and held-out ones, with the text of the latter if bits per byte are defined for it."""

    train: Documents
    held_out: Documents
    tokenizer: Tokenizer
    identity: dict[str, Any]
    """Number, bytes and hash of the documents."""
    held_out_text: tuple[Document, ...] = ()


def read_text(
    source: str,
    out: Path,
    vocab_size: int,
    init: Path | None,
    group: Group,
    seq_len: int,
    long_chats: LongChats = "refuse",
    anew: bool = False,
    tokenizer: Tokenizer | None = None,
) -> Text:
    """Reads the corpus `source` (see `corpus.load_corpus`, or a folder of token shards) for a run in `out`.

    `seq_len`: tokens of the shortest sequences of the run. `long_chats`: policy for chats that are longer. `anew`: True
    if no run resumes, so a tokenizer in `out` may belong to another text (see `_trained`). `tokenizer`: the one of the
    run, where it is known. Raises ValueError for unreadable sources, for token shards without a tokenizer, and for ids
    outside of the vocabulary of the model.
    """
    if is_shards(Path(source)):
        shards = TokenShards(Path(source))
        tokenizer = tokenizer or Tokenizer.load(init or _beside(shards))
        check_shards(shards, tokenizer.fingerprint, tokenizer.vocab_size, vocab_size)
        train, held_out = fit_documents(split_shards(shards), seq_len, long_chats, source, group.first)
        return Text(train, held_out, tokenizer, of_shards(shards))
    kind, documents = asked_about(source)
    corpus = load_corpus(documents)
    if kind:
        corpus = _questions(corpus, kind)
    identity = of_documents(corpus.train, corpus.held_out)
    if tokenizer is None and init is not None:
        tokenizer = Tokenizer.load(init)
    elif tokenizer is None:

        def make() -> None:
            if anew or not (out / FILE_NAME).exists():
                _trained(out, corpus, vocab_size, identity)

        by_first(make)
        tokenizer = Tokenizer.load(out)
    parts = (corpus.train, corpus.held_out)
    chats = any(d.messages for d in corpus.held_out)
    if chats:
        encode = functools.partial(encode_chat, tokenizer)
        named = fit_chats(parts, encode, seq_len, long_chats, source, group.first)
    else:
        named = [[(d.name, as_tokens(tokenizer.encode_document(d.text))) for d in part] for part in parts]
    for part in named:
        check_ids(part, vocab_size)
    train, held_out = (InMemory(tokens for _, tokens in part) for part in named)
    return Text(train, held_out, tokenizer, identity, () if chats else corpus.held_out)


def _beside(shards: TokenShards) -> Path:
    """Returns the folder with the tokenizer of token shards: theirs, or the one that it is in."""
    places = (shards.folder, shards.folder.resolve().parent)
    found = [place for place in places if (place / FILE_NAME).is_file()] if shards.tokenizer else []
    if not found:
        raise ValueError(
            f"{shards.folder}: token shards are ids of a model's tokenizer, which is not known here; give the model "
            "with --init"
        )
    return found[0]


def _trained(out: Path, corpus: Corpus, vocab_size: int, identity: dict[str, Any]) -> None:
    """Writes a tokenizer of this text to `out`, unless a user has put one there.

    SOURCE identifies the training text of the tokenizer in `out`. An old tokenizer is removed before SOURCE is written,
    and the new one is written after it. So a run that is killed in between, or before its first state, leaves no
    tokenizer that another run would mistake for its own.
    """
    source = {"data": identity, "vocab_size": vocab_size}
    try:
        saved = json.loads((out / SOURCE).read_text())
    except (OSError, ValueError):
        saved = None
    if (out / FILE_NAME).exists():
        if saved == source:
            return
        if saved is None:
            warnings.warn(f"{out / FILE_NAME}: is used as it is; nobody here has trained it", Notice, stacklevel=2)
            return
        warnings.warn(f"{out / FILE_NAME}: was of other text, of a run without a state; replaced", Notice, stacklevel=2)
    (out / FILE_NAME).unlink(missing_ok=True)
    write_json(out / SOURCE, source)
    train_tokenizer((d.text for d in corpus.train), vocab_size).save(out)


def asked_about(source: str) -> tuple[str, str]:
    """Returns (word of `ASKED` before a source, or "", and the source of documents after it)."""
    kind = next((kind for kind in ASKED if source.startswith(kind)), "")
    return kind, source.removeprefix(kind)


def _questions(corpus: Corpus, kind: str) -> Corpus:
    """Returns chats about the documents of a corpus."""

    def chats(documents: Sequence[Document]) -> tuple[Document, ...]:
        dialogues = enumerate(ASKED[kind](documents))
        return tuple(
            Document(f"chat {number}", "\n".join(message["content"] for message in chat), tuple(chat))
            for number, chat in dialogues
        )

    return Corpus(f"{kind}{corpus.name}", chats(corpus.train), chats(corpus.held_out))
