"""Checks before the first step that token ids fit the tokenizer and the model.

A model embeds any id below its `vocab_size`, so ids of another tokenizer would train without an error, to nonsense.
"""

from __future__ import annotations

from collections.abc import Iterable

from wavefold.data.batches import Tokens
from wavefold.data.shards import TokenShards


def check_ids(documents: Iterable[tuple[str, Tokens]], vocab_size: int) -> None:
    """Raises ValueError, naming document and id, if a (name, document) pair has an id outside of `vocab_size`."""
    for name, document in documents:
        if len(document) and not 0 <= (largest := int(document.ids.max())) < vocab_size:
            raise ValueError(
                f"document {name}: id {largest} is not allowed; expected 0 to {vocab_size - 1}, as the model's "
                f"vocab_size is {vocab_size}. Use the tokenizer of the model, or a model with a larger vocab_size"
            )


def check_shards(shards: TokenShards, fingerprint: str, num_tokens: int, vocab_size: int) -> None:
    """Compares token shards with the tokenizer (`fingerprint`, `num_tokens` ids) and the model (`vocab_size`) of a run.

    Shards with a fingerprint must have this one. Shards without one must have the vocabulary size of the tokenizer or
    of the model. Raises ValueError otherwise, and for an id outside of the model's vocabulary.
    """
    way_out = "write the shards anew with the model's tokenizer: write_shards(..., tokenizer=tokenizer.fingerprint)"
    if shards.tokenizer is not None:
        if shards.tokenizer != fingerprint:
            raise ValueError(
                f"{shards.folder}: tokenizer = {shards.tokenizer[:16]}... is not allowed; expected the model's, "
                f"{fingerprint[:16]}...: the ids are another tokenizer's; {way_out}"
            )
    elif shards.vocab_size not in (num_tokens, vocab_size):
        raise ValueError(
            f"{shards.folder}: vocab_size = {shards.vocab_size} is not allowed; expected {num_tokens}, the "
            f"tokenizer's, or {vocab_size}, the model's: the ids seem to be another tokenizer's; {way_out}"
        )
    if shards.vocab_size > vocab_size:  # else reading a document already compares its ids with a smaller size
        check_ids(((f"{number} of {shards.folder}", shards[number]) for number in range(len(shards))), vocab_size)
