"""Which figure of the card shows each harm, and by how many standard errors.

    python -m tests.quality.harm_table FOLDER [TOKENS]     writes a card for each harm under FOLDER, prints a table

A harm's card is made against the clean model. Figures that know the clean model (KL, the same best token, bits per byte
beyond it) are counted from what two clean runs give, which is no difference at all; others from the clean card.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.quality.harms import HARMS, copy, kv_rounded_twice, window_127
from wavefold import ops
from wavefold.locate import DEFAULT_MODEL
from wavefold.quality import Asked, Card, Run, Settings, compare
from wavefold.quality.subject import Subject


def card_of(model: Path, folder: Path, settings: Settings, against: Path | None = DEFAULT_MODEL) -> Card:
    return Run(Asked(model, against, None, settings), folder, print, lambda share, left: None).card()


class HarmedRun(Run):
    """Measures under a harm that no file can do; the other model is read without it."""

    def __init__(
        self, folder: Path, settings: Settings, harm: Callable[[Subject], None], around: AbstractContextManager[None]
    ):
        super().__init__(Asked(DEFAULT_MODEL, DEFAULT_MODEL, None, settings), folder, print, lambda share, left: None)
        self._harm, self._around = harm, around

    def _measure(self, left: list) -> None:
        opened = self._opened

        @contextmanager
        def harmed(path: Path) -> Iterator[Subject]:
            with opened(path) as subject:
                self._harm(subject)
                yield subject

        with pytest.MonkeyPatch.context() as patch, self._around:
            patch.setattr(self, "_opened", harmed)
            super()._measure(left)


def shown(clean: Card, harmed: Card) -> list[tuple[float, str]]:
    """(standard errors, figure) of each figure that differs, the largest first."""
    found = []
    for one in compare(clean, harmed):
        if one.errors:
            found.append((one.errors, f"{one.first.part}: {one.first.name}, {one.first.of}: "
                          f"{one.first.value:.4g} -> {one.second.value:.4g}"))  # fmt: skip
    return sorted(found, key=lambda pair: -abs(pair[0]))


def main() -> None:
    folder, tokens = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3072
    settings = Settings(tokens, (512, 2048), parts=("text", "chats"))
    clean = card_of(DEFAULT_MODEL, folder / "clean", settings)
    cards = {}
    for number, (name, harm) in enumerate(HARMS.items()):
        model = folder / f"model-{number}"
        if not model.exists():
            harm(copy(model))
        cards[name] = clean, card_of(model, folder / f"card-{number}", settings)
    run = HarmedRun(folder / "window", settings, window_127, nullcontext())
    cards["window 127"] = clean, run.card()
    small = Settings(512, (256,), parts=("text",))
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # references are not batch-invariant, and repeat their bits all the same
        patch.setattr(Settings, "batch_invariant", False)
        with ops.using(backend="reference"):
            plain = card_of(DEFAULT_MODEL, folder / "plain", small)
            run = HarmedRun(folder / "kv", small, lambda subject: None, kv_rounded_twice())
            cards["KV rounded twice"] = plain, run.card()
    for name, (before, after) in cards.items():
        print(f"\n## {name}")
        for errors, text in shown(before, after)[:6]:
            print(f"  {errors:+8.1f}  {text}")


if __name__ == "__main__":
    main()
