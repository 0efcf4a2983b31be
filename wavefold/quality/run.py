"""A run of the card: one model at a time is in memory, and every unit that is done is kept.

OUT/state.json          what is measured; a run with the same one goes on
OUT/units/PART-N.json   a unit that is done
OUT/other/...           logits of the other model (--against), until they have been compared
OUT/card.json, card.md, card.html, run.json
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from wavefold import __version__
from wavefold.atomic import holding, write_json, write_text
from wavefold.chat import tokenizer_of
from wavefold.config import read_config
from wavefold.locate import model_path
from wavefold.quality.card import Card
from wavefold.quality.chats import Chats
from wavefold.quality.forms import Forms
from wavefold.quality.lengths import check_lengths
from wavefold.quality.loops import Loops
from wavefold.quality.markdown import markdown
from wavefold.quality.needles import Needles
from wavefold.quality.other import rows_bytes
from wavefold.quality.page import page
from wavefold.quality.part import Part, Result, Unit
from wavefold.quality.passages import Passage, load_texts, passages_of, texts_digest
from wavefold.quality.progress import Clock, Rates, measured_rates
from wavefold.quality.reading import Reading
from wavefold.quality.settings import Settings
from wavefold.quality.statistics import Figure
from wavefold.quality.subject import Subject, identity_of
from wavefold.quality.tools import Tools
from wavefold.system import cpu_name

NEEDS = ("jsonschema", "jinja2", "matplotlib")
OTHERS = {"model": "another model", "against": "another --against", "settings": "other settings",
          "texts": "other texts", "version": "another version"}  # fmt: skip
Told = Callable[[str], None]


class Asked(NamedTuple):
    """What a card is about. `memory`: the budget of each model, as `LLM` takes it."""

    model: Path
    against: Path | None
    texts: Path | None
    settings: Settings
    memory: str | None = None


def check_needs() -> None:
    """Raises ValueError where a package is missing that only cards need."""
    if lost := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise ValueError(f"a card needs {' and '.join(lost)}; install with: pip install 'wavefold[quality]'")


class Run:
    """A card in the making. `say` hears a line of text, `told` the share that is done and the seconds left."""

    def __init__(self, asked: Asked, out: Path, say: Told, told: Callable[[float, float], None]):
        check_needs()
        check_lengths(asked.model, asked.settings, asked.memory)
        self.asked, self.out, self._say, self._told = asked, out, say, told
        texts = load_texts(asked.texts)
        self.passages = passages_of(texts, asked.settings.text_bytes)
        self._model = self._identity(asked.model)
        self._against = None if asked.against is None else self._identity(asked.against)
        self._check_against()
        kinds: dict[str, int] = {}
        for passage in self.passages:
            kinds[passage.kind] = kinds.get(passage.kind, 0) + passage.num_bytes
        self._state = {
            "model": self._model, "against": self._against, "settings": asked.settings.values(),
            "texts": {"digest": texts_digest(texts), "bytes": kinds}, "version": __version__,
        }  # fmt: skip
        self.parts = parts_of(self.passages, asked.settings, None if asked.against is None else out / "other")
        self._rates: Rates | None = None

    def card(self) -> Card:
        """Measures what is left, and writes the card's files. Raises ValueError for a folder of another card."""
        self.out.mkdir(parents=True, exist_ok=True, mode=0o700)
        with holding(self.out / ".lock"):
            self._begin()
            began, left = time.time(), self._left()
            self._record([unit for part, _, unit in left if isinstance(part, Reading)])
            if left:
                self._measure(left)
            card = self._assembled()
            seconds = time.time() - began
            self._write(card, began, seconds if left else None)
        return card

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _identity(self, path: Path) -> dict[str, object]:
        place = model_path(path)
        tokenizer = tokenizer_of(place)
        if tokenizer is None:
            raise ValueError(f"{place}: holds no tokenizer that can be used; a card is about texts")
        return identity_of(place, tokenizer)

    def _check_against(self) -> None:
        if self._against is not None and Reading.name not in self.asked.settings.parts:
            raise ValueError("--against is for the part 'text', which --parts leaves out; expected it among them")
        if self._against is not None and self._against["vocabulary"] != self._model["vocabulary"]:
            raise ValueError(
                f"--against {self.asked.against}: has {self._against['vocabulary']} tokens, and {self.asked.model} "
                f"{self._model['vocabulary']}; expected a model of the same vocabulary"
            )

    def _begin(self) -> None:
        """Makes the folder, or checks that it is of this card."""
        place = self.out / "state.json"
        if place.exists():
            try:
                state = json.loads(place.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{place}: is damaged ({error}); remove the folder") from None
            if state != json.loads(json.dumps(self._state)):
                differing = [
                    key for key, value in self._state.items() if state.get(key) != json.loads(json.dumps(value))
                ]
                raise ValueError(
                    f"{self.out}: holds a card of {' and '.join(OTHERS[key] for key in differing)}; give another "
                    "--out, or remove it"
                )
        elif any(path.name != ".lock" for path in self.out.iterdir()):
            raise ValueError(f"{self.out}: is not empty and holds no card; give another --out")
        for name in ("units", "other"):
            (self.out / name).mkdir(exist_ok=True, mode=0o700)
        write_json(place, self._state)

    def _left(self) -> list[tuple[Part, int, Unit]]:
        """The units that no file has."""
        return [
            (part, number, unit) for part in self.parts for number, unit in enumerate(part.units())
            if not self._place(part, number).exists()
        ]  # fmt: skip

    def _place(self, part: Part, number: int) -> Path:
        return self.out / "units" / f"{part.name}-{number:04}.json"

    def _record(self, units: list[Unit]) -> None:
        """Reads the texts with the other model."""
        reading = self.parts[0]
        if self.asked.against is None or not isinstance(reading, Reading):
            return
        left = [unit for unit in units if not reading.place(unit).exists()]
        if not left:
            return
        vocabulary = read_config(model_path(self.asked.against))[0].vocab_size
        needed = rows_bytes(sum(map(Reading.num_rows, left)), vocabulary)
        if (free := shutil.disk_usage(self.out).free) < 1.2 * needed:
            raise ValueError(
                f"{self.out}: {free / 1e9:.1f} GB are free, and the logits of the other model take "
                f"{needed / 1e9:.1f} GB for a while; give an --out with more room, or fewer --tokens"
            )
        with self._opened(self.asked.against) as subject:
            self._estimate(subject, left, f"{needed / 1e9:.2f} GB of logits in {self.out}")
            clock = self._clock(left)
            for unit in left:
                reading.record(subject, unit)
                clock.done(self._seconds(unit))
        self._say(f"{self.asked.against}: read {len(left)} texts")

    def _measure(self, left: list[tuple[Part, int, Unit]]) -> None:
        with self._opened(self.asked.model) as subject:
            self._estimate(subject, [unit for _, _, unit in left], "")
            clock = self._clock([unit for _, _, unit in left])
            for part in self.parts:
                began, units = time.monotonic(), [(number, unit) for one, number, unit in left if one is part]
                problem = part.problem(subject)
                for number, unit in units:
                    result = {"missing": problem} if problem else part.measure(subject, unit)
                    write_json(self._place(part, number), result)
                    if isinstance(part, Reading) and part.folder is not None:
                        part.place(unit).unlink(missing_ok=True)
                    clock.done(self._seconds(unit))
                if units:
                    said = f"; about {minutes(clock.left)} left" if part is not self.parts[-1] else ""
                    self._say(f"{part.name}: {len(units)} units in {time.monotonic() - began:.1f} s{said}")

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Subject]:
        subject = Subject(path, self.asked.settings, self.asked.memory)
        try:
            yield subject
        finally:
            subject.close()

    def _estimate(self, subject: Subject, units: list[Unit], more: str) -> None:
        """Says how long it takes, before it begins."""
        self._rates = measured_rates(subject)
        seconds = sum(map(self._seconds, units))
        said = f"{self._rates.prompt:,.0f} tokens/s of prompts and {self._rates.decode:,.0f} of answers"
        self._say(f"{subject.llm.folder}: about {minutes(seconds)} ({said}{f'; {more}' if more else ''})")

    def _seconds(self, unit: Unit) -> float:
        assert self._rates is not None
        return self._rates.seconds(unit)

    def _clock(self, units: list[Unit]) -> Clock:
        return Clock(sum(map(self._seconds, units)), self._told)

    # -- the card ------------------------------------------------------------------------------------------------------

    def _assembled(self) -> Card:
        figures: list[Figure] = []
        missing: dict[str, str] = {}
        for part in self.parts:
            results = [self._result(part, number) for number in range(len(part.units()))]
            if problem := next((result["missing"] for result in results if "missing" in result), ""):
                missing[part.name] = problem
            else:
                figures += part.figures(results)
        state = self._state
        return Card(self._model, self._against, state["texts"], state["settings"], missing, tuple(figures))  # type: ignore[arg-type]

    def _result(self, part: Part, number: int) -> Result:
        place = self._place(part, number)
        try:
            result: Result = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{place}: cannot be read ({error}); remove it and run again") from None
        return result

    def _write(self, card: Card, began: float, seconds: float | None) -> None:
        card.save(self.out)
        write_text(self.out / "card.md", markdown(card))
        write_text(self.out / "card.html", page(card))
        shutil.rmtree(self.out / "other", ignore_errors=True)
        if seconds is not None:
            write_json(
                self.out / "run.json",
                {"began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)), "seconds": seconds,
                 "model": str(self.asked.model), "against": self.asked.against and str(self.asked.against),
                 "processor": cpu_name(), "version": __version__},
            )  # fmt: skip


def parts_of(passages: list[Passage], settings: Settings, other: Path | None) -> list[Part]:
    """The parts of a card that the settings ask for, `Reading` first."""
    parts: list[Part] = [
        Reading(passages, other), Needles(passages, settings), Loops(passages, settings), Forms(settings),
        Tools(settings), Chats(settings),
    ]  # fmt: skip
    return [part for part in parts if part.name in settings.parts]


def minutes(seconds: float) -> str:
    """Returns a time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
