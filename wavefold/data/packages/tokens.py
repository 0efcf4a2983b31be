"""Token shards of the whole corpus, for a vocabulary of any size, and their hashes in the list.

    documents --one in SAMPLE--> tokenizer --encode--> FOLDER/tokenizer.json, FOLDER/text, FOLDER/last

`text` holds all documents, those of the standard library several times. `last` is for the last part of a run: chats of
docstrings, exercises, and one document in `KEPT_TEXT`. Of held-out documents each has a part, which a run evaluates as
it goes. Chats are about functions of the documents, so they are held out with them. Everything is in a fixed order, and
the hash of a folder's index stands for all of its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from wavefold.chat.encoding import encode_chat
from wavefold.chat.tokenizer import Tokenizer, train_tokenizer
from wavefold.data.batches import Tokens, as_tokens
from wavefold.data.corpus import Corpus, Document
from wavefold.data.exercises.make import exercises
from wavefold.data.file_hash import file_hash
from wavefold.data.instruct import instruct_chats
from wavefold.data.shards import INDEX_NAME, TokenShards, write_shards

SAMPLE = 16
"""One document in this many trains the tokenizer: 9 MB."""
STDLIB_TIMES = 3
"""How often a document of the standard library is there to learn from: it is 7 % of the corpus, and the most read."""
ASKED = 4
"""One document in this many to learn from is asked about in chats."""
KEPT_TEXT = 8
"""One document in this many is text in the last part."""
EVALUATED = 8
"""One held-out document in this many is in shards: a run evaluates them again and again."""
CHATS, EXERCISES = 40_000, 40_000
HELD_OUT_SHARE = 20
"""Of held-out documents come a twentieth of these numbers."""
LONGEST_CHAT = 1025
"""Tokens of the longest chat that is kept."""
SEED = 0

Chats = list[list[dict[str, str]]]


def sampled(documents: Sequence[Document], one_in: int) -> list[Document]:
    """Returns the documents whose name hashes to it: a fixed part, in order."""
    return [d for d in documents if hashlib.sha256(d.name.encode()).digest()[0] % one_in == 0]


def tokenizer_of_sample(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """Returns a tokenizer of a part of the documents to learn from."""
    return train_tokenizer((d.text for d in sampled(corpus.train, SAMPLE)), vocab_size)


def weighted(documents: Sequence[Document], often: Collection[str]) -> list[Document]:
    """Returns the documents, in order, those with a name in `often` `STDLIB_TIMES` times."""
    return [d for d in documents for _ in range(STDLIB_TIMES if d.name in often else 1)]


def chats_of(documents: Sequence[Document], num_chats: int, num_exercises: int) -> Chats:
    """Returns chats of docstrings and exercises, at most so many of each, alternating as far as both go."""
    asked = instruct_chats(documents, SEED)[:num_chats]
    checked = [exercise.chat for exercise in exercises(documents, SEED, num_exercises)]
    shared = min(len(asked), len(checked))
    mixed = [chat for pair in zip(asked, checked, strict=False) for chat in pair]
    return [*mixed, *asked[shared:], *checked[shared:]]


def build_shards(
    folder: Path, corpus: Corpus, chats: tuple[Chats, Chats], vocab_size: int, tell: Callable[[str], object],
    often: Collection[str] = (),
) -> dict[str, str]:  # fmt: skip
    """Writes a tokenizer and both kinds of shards to `folder` and returns their hashes by name.

    `chats`: those to learn from and the held-out ones. `often`: names of documents to learn from that are there
    `STDLIB_TIMES` times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of_sample(corpus, vocab_size)
    tokenizer.save(folder)
    tell(f"{folder}: a tokenizer of {tokenizer.vocab_size} tokens")
    hashes = {"tokenizer": tokenizer.fingerprint}
    documents = weighted(corpus.train, often), sampled(corpus.held_out, EVALUATED) or corpus.held_out
    parts = {
        "text": [_encoded(tokenizer, part, []) for part in documents],
        "last": [_encoded(tokenizer, sampled(part, KEPT_TEXT), dialogues)
                 for part, dialogues in zip(documents, chats, strict=True)],
    }  # fmt: skip
    for name, (train, held_out) in parts.items():
        write_shards(folder / name, train, vocab_size, tokenizer=tokenizer.fingerprint, held_out=held_out)
        hashes[name] = file_hash(folder / name / INDEX_NAME)
        tell(f"{folder / name}: {hashes[name]}")
    tell(f"{folder}: {bytes_a_token(folder / 'text', documents[1]):.3f} bytes a token of held-out documents")
    return hashes


def bytes_a_token(folder: Path, held_out: Sequence[Document]) -> float:
    """Returns the UTF-8 bytes of held-out documents for each of their tokens in shards, BOS and EOS left out."""
    num_tokens = TokenShards(folder).lengths[-len(held_out) :] - 2
    return sum(len(d.text.encode()) for d in held_out) / int(num_tokens.sum())


def _encoded(tokenizer: Tokenizer, documents: Sequence[Document], chats: Chats) -> Iterator[Tokens]:
    for document in documents:
        yield as_tokens(np.asarray(tokenizer.encode_document(document.text), np.int32))
    for chat in chats:
        ids, learned = encode_chat(tokenizer, chat)
        if len(ids) <= LONGEST_CHAT:
            yield Tokens(np.asarray(ids, np.int32), np.asarray(learned, bool))
