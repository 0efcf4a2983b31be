"""The measures whose answers are judged one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from wavefold.chat import Prompt, Tokenizer, heal
from wavefold.chat.encoding import chat_ids, turn_ids
from wavefold.chat.fim import FIM_MARKERS, hole_ids
from wavefold.chat.special_tokens import ASSISTANT, END_THINK, USER
from wavefold.data.exercises.exercise import Exercise
from wavefold.engine import Sampling
from wavefold.quality.loops import ANSWER_TOKENS, loops
from wavefold.quality.part import Result, Unit
from wavefold.quality.settings import BYTES_A_TOKEN
from wavefold.quality.subject import Subject
from wavefold.quality.worth.asked import Answer, Asked, answered
from wavefold.quality.worth.judges import is_filling, is_next_line, parses, stops
from wavefold.quality.worth.sources import AFTER_HOLE, BEFORE, BEFORE_HOLE, Head, Hole, NextLine

SPARE_TOKENS = 16
"""Tokens that an answer may have beside those of the line or hole: empty lines, another way to cut it."""
FIRST_TOKENS = 3
"""Of a line, after which most answers are known to be wrong."""
CHAT_TOKENS = 192
SHOWN = 400
"""Characters of a prompt's end in a sample."""


class Completions(Asked):
    """Functions that are gone on with after their first statement, and parse; drawn several times."""

    name, title, draws, together = "completions", "completed functions that parse", 5, 32
    max_tokens, temperature = 64, 0.2

    def __init__(self, cases: Sequence[Head], seed: int, draws: int = 5):
        super().__init__(cases, seed=seed, max_tokens=self.max_tokens, temperature=self.temperature)
        self.draws, self.seed = draws, seed

    def prompt(self, subject: Subject, case: Head) -> Prompt:
        ids = subject.tokenizer.encode(case.before + case.head, bos=True)
        return heal(subject.tokenizer, ids)

    def sampling(self, subject: Subject, case: Head, number: int) -> Sampling:
        return Sampling(self.max_tokens, self.temperature, 1.0, _seed(self.seed, number))

    def judged(self, case: Head, answer: Answer) -> bool:
        return parses(case.head, answer.text)

    def sizes(self, case: Head) -> tuple[int, int]:
        return len(case.before + case.head), self.max_tokens

    def shown(self, case: Head) -> str:
        return case.head


class NextLines(Asked):
    """The next line of a function, greedily, to the character, indentation included.

    The prompt ends with the last line before it that is not empty, without its line break, and the first token is one
    with a line break: the tokenizer joins that with the signs before it and the indentation after it
    (`wavefold/chat/healing.py`).
    """

    name, title, together = "next_lines", "next lines, exact", 256

    def __init__(self, cases: Sequence[NextLine]):
        super().__init__(cases, spare=SPARE_TOKENS, first=FIRST_TOKENS)

    def prompt(self, subject: Subject, case: NextLine) -> Prompt:
        return line_break(subject.tokenizer, subject.tokenizer.encode(case.before, bos=True))

    def sampling(self, subject: Subject, case: NextLine, number: int) -> Sampling:
        return Sampling(len(subject.tokenizer.encode("\n" + case.line)) + SPARE_TOKENS, 0.0)

    def measure(self, subject: Subject, unit: Unit) -> Result:
        """A few tokens first, and all of them where they may still become the line.

        Neighbours, whose prompts begin alike, are not asked at once: the later one goes on from what is cached.
        """
        cases = self.cases[unit.data : unit.data + self.together]
        alike: dict[str, int] = defaultdict(int)
        turns = []
        for number, case in enumerate(cases):
            turns.append((alike[case.before[:BEFORE]], number))
            alike[case.before[:BEFORE]] += 1
        order = [number for _, number in sorted(turns)]
        prompts = [self.prompt(subject, case) for case in cases]
        first = Sampling(FIRST_TOKENS, 0.0)
        answers = dict(answered(subject.llm, [(number, prompts[number], first) for number in order]))
        left = [number for number in order if self._verdict(cases[number], answers[number]) is None]
        answers |= dict(answered(
            subject.llm, [(number, prompts[number], self.sampling(subject, cases[number], 0)) for number in left]
        ))  # fmt: skip
        return {"answers": [answers[number] for number in range(len(cases))]}

    def judged(self, case: NextLine, answer: Answer) -> bool:
        return self._verdict(case, answer) is True

    def sizes(self, case: NextLine) -> tuple[int, int]:
        return len(case.before) // 4, FIRST_TOKENS

    @staticmethod
    def _verdict(case: NextLine, answer: Answer) -> bool | None:
        ended = answer.finish_reason == "eos"  # the model ended the file
        known = is_next_line(answer.text + ("\n" if ended else ""), case.line)
        return False if ended and known is None else known


class Holes(Asked):
    """Fill in the middle, greedily: the text that was there, and an end after it."""

    name, title = "holes", "holes filled, exact"

    def __init__(self, cases: Sequence[Hole]):
        super().__init__(cases, spare=SPARE_TOKENS)

    def problem(self, subject: Subject) -> str:
        lost = subject.tokenizer.lacking(FIM_MARKERS)
        return f"the tokenizer lacks {lost}" if lost else ""

    def prompt(self, subject: Subject, case: Hole) -> Prompt:
        return Prompt(hole_ids(subject.tokenizer, case.before, case.after))

    def sampling(self, subject: Subject, case: Hole, number: int) -> Sampling:
        return Sampling(len(subject.tokenizer.encode(case.middle)) + SPARE_TOKENS, 0.0)

    def judged(self, case: Hole, answer: Answer) -> bool:
        return is_filling(answer.text, answer.finish_reason == "eos", case.middle)

    def sizes(self, case: Hole) -> tuple[int, int]:
        return BEFORE_HOLE + AFTER_HOLE, SPARE_TOKENS

    def shown(self, case: Hole) -> str:
        return f"{case.before[-SHOWN:]}<HOLE>{case.after[:SHOWN]}"


class Chats(Asked):
    """Questions in V4's encoding, which the chat templates of this project's models write too."""

    def problem(self, subject: Subject) -> str:
        lost = subject.tokenizer.lacking((USER, ASSISTANT, END_THINK))
        return f"the tokenizer lacks {lost}" if lost else ""

    def question(self, case: object) -> str:
        return str(case)

    def prompt(self, subject: Subject, case: object) -> Prompt:
        return Prompt(chat_ids(subject.tokenizer, [{"role": "user", "content": self.question(case)}]))

    def sizes(self, case: object) -> tuple[int, int]:
        return len(self.question(case)), CHAT_TOKENS

    def shown(self, case: object) -> str:
        return self.question(case)


class Rewrites(Chats):
    """Changes of real functions, greedily; the exercise judges (`wavefold/data/exercises/rewrites.py`)."""

    name, title = "rewrites", "rewrites, checked by a program"

    def __init__(self, cases: Sequence[Exercise]):
        super().__init__(cases)

    def question(self, case: Exercise) -> str:  # type: ignore[override]
        return case.question

    def key(self, case: Exercise) -> object:
        return case.question

    def sampling(self, subject: Subject, case: Exercise, number: int) -> Sampling:
        most = CHAT_TOKENS + 2 * len(case.question) // BYTES_A_TOKEN
        return Sampling(most, 0.0, stop_ids=turn_ids(subject.tokenizer))

    def judged(self, case: Exercise, answer: Answer) -> bool:
        return case.check(answer.text)


class Stops(Chats):
    """Answers at the checkpoint's own sampling that say something and end by themselves."""

    name, title = "stops", f"answers that end by themselves within {CHAT_TOKENS} tokens"

    def __init__(self, cases: Sequence[str], seed: int):
        super().__init__(cases, seed=seed, max_tokens=CHAT_TOKENS)
        self.seed = seed

    def sampling(self, subject: Subject, case: str, number: int) -> Sampling:
        return Sampling(CHAT_TOKENS, seed=_seed(self.seed, number), stop_ids=turn_ids(subject.tokenizer))

    def judged(self, case: str, answer: Answer) -> bool:
        return stops(answer.text, answer.finish_reason)


class Loops(Asked):
    """Continuations at the checkpoint's own sampling that fall into repetition (`wavefold/quality/loops.py`)."""

    name, title, better = "loops", "continuations that fall into repetition", "low"

    def __init__(self, cases: Sequence[str], seed: int):
        super().__init__(cases, seed=seed, max_tokens=ANSWER_TOKENS)
        self.seed = seed

    def prompt(self, subject: Subject, case: str) -> Prompt:
        return heal(subject.tokenizer, subject.tokenizer.encode(case, bos=True))

    def sampling(self, subject: Subject, case: str, number: int) -> Sampling:
        return Sampling(ANSWER_TOKENS, seed=_seed(self.seed, number))

    def judged(self, case: str, answer: Answer) -> bool:
        return answer.finish_reason == "length" and loops(answer.tokens)

    def sizes(self, case: str) -> tuple[int, int]:
        return len(case), ANSWER_TOKENS

    def shown(self, case: str) -> str:
        return case


def line_break(tokenizer: Tokenizer, ids: list[int]) -> Prompt:
    """The prompt `ids`, to be gone on with by a line break: in one token with its last one where there is such."""
    taken = tokenizer.token_bytes(ids[-1])
    joined = tokenizer.beginning_with(taken + b"\n")
    return Prompt(ids[:-1], taken, joined) if joined else Prompt(ids, b"", tokenizer.beginning_with(b"\n"))


def _seed(seed: int, number: int) -> int:
    """Of one answer: no two answers of a measure share their random numbers."""
    return seed * 1_000_000 + number
