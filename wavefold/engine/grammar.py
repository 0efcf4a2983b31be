"""Structured output: the tokens that a JSON schema, a regular expression, choices or a list of tools allows next.

    Constraint -> Grammars.compile -> Grammar -> start() for each answer -> mask -> a token is chosen -> advance

llguidance does the work. It refuses keywords that it does not support, where other libraries leave them out. What it
takes and does not hold an answer to, schemas.py refuses. Tools become a grammar in call_grammar.py, and markup.py takes
tokens out of its masks. While an answer reasons, thinking.py has the mask.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import llguidance
import torch
from torch import Tensor

from wavefold.chat import Tokenizer
from wavefold.chat.special_tokens import DSML
from wavefold.engine.call_grammar import Part, call_grammar
from wavefold.engine.markup import Markup, MarkupState
from wavefold.engine.schemas import problem_of_schema
from wavefold.engine.thinking import Thinking, thinking_of
from wavefold.engine.tools import Calls, calls_of

Kind = Literal["json_schema", "regex", "choices", "tools"]
MOST_CHARACTERS = 1 << 18
"""Of a constraint's text. A grammar takes some hundred times as many bytes."""
KEPT = 32
"""Compiled grammars that are kept for the next request."""
JSON_OPTIONS = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": False,
    "lenient": False,
}  # fmt: skip
"""One blank after commas and colons, as `json.dumps` writes, and nothing that a schema asks for is left out."""
ROW_ITEMS = 20_000
"""Alternatives at a place of a text; llguidance's own limit of 2,000 was met amid answers."""
LEXER_FUEL = 200_000
"""A fifth of llguidance's own, with which `a{1000}{1000}` took seconds before it was given up."""


@dataclass(frozen=True)
class Constraint:
    """What an answer's text must be.

    `text`: a schema in JSON, a regular expression, a list of texts in JSON, or tools and their choice in JSON.
    `after_thinking`: of the text after `</think>`, which ends the answer's reasoning.
    """

    kind: Kind
    text: str
    after_thinking: bool = False

    @classmethod
    def of(
        cls, json_schema: object = None, regex: str | None = None, choices: Sequence[str] = (),
        calls: Calls | None = None,
    ) -> Constraint | None:  # fmt: skip
        """Returns the constraint of the one argument that is used, or None. A schema beside calls: of answers without.

        `json_schema` is a mapping, or its text in JSON. Raises ValueError for several others, for a text that is no
        JSON, for choices that are not texts, and for a constraint that is too long.
        """
        if json_schema is not None and calls is not None and not regex and not len(choices):
            calls, json_schema = _with_answer(calls, json_schema)
        used = {
            "json_schema": json_schema is not None, "regex": regex is not None, "choices": bool(len(choices)),
            "tools": calls is not None,
        }  # fmt: skip
        names = [name for name, is_used in used.items() if is_used]
        if not names:
            return None
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} are not allowed together; expected one of them")
        if names[0] == "regex":
            constraint = cls("regex", str(regex))
        elif names[0] == "choices":
            constraint = cls("choices", _choices_text(choices))
        elif calls is not None:
            constraint = cls("tools", calls.text)
            call_grammar(calls, 0, JSON_OPTIONS)  # refuses what an answer cannot be held to
        else:
            constraint = cls("json_schema", _schema_text(json_schema))
        if (length := len(constraint.text)) > MOST_CHARACTERS:
            raise ValueError(
                f"{names[0]} of {length:,} characters is not allowed; expected at most {MOST_CHARACTERS:,}"
            )
        return constraint


def _with_answer(calls: Calls, json_schema: object) -> tuple[Calls | None, object]:
    """Returns calls and a schema as one of the two: a schema alone, where nothing may be called."""
    if calls.choice == "none":
        return None, json_schema
    return calls._replace(answer=json.loads(_schema_text(json_schema))), None


def _choices_text(choices: Sequence[str]) -> str:
    if isinstance(choices, str):
        raise ValueError(f"choices = {choices!r} is a single text; expected several: ({choices!r},)")
    if not all(type(text) is str and text for text in choices):
        raise ValueError(f"choices = {choices!r} is not allowed; expected texts of one character or more")
    return json.dumps(list(dict.fromkeys(choices)), ensure_ascii=False)


def _schema_text(schema: object) -> str:
    parsed: Any
    try:
        parsed = json.loads(schema) if type(schema) is str else schema
        text = json.dumps(parsed, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"json_schema is no JSON: {error}; expected a mapping, or a text in JSON") from None
    if parsed is False:
        raise ValueError("json_schema false is not allowed: no value satisfies it")
    if not (parsed is True or text.startswith("{")):
        raise ValueError(f"json_schema {_short(text)} is not allowed; expected an object of keywords")
    if parsed is True:
        return "{}"
    if problem := problem_of_schema(parsed):
        raise ValueError(f"json_schema {_short(text)} is not allowed: {problem}")
    if "$schema" in parsed:
        text = json.dumps({key: value for key, value in parsed.items() if key != "$schema"}, ensure_ascii=False)
    return text


class _Vocabulary:
    """A tokenizer as llguidance takes it: bytes by id, and how a text is encoded."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_id: int):
        self.eos_token_id, self.bos_token_id = eos_id, None
        known = range(min(vocab_size, tokenizer.vocab_size))
        self.tokens = [tokenizer.token_bytes(token) for token in known] + [b""] * (vocab_size - len(known))
        self.special_token_ids = [token for token in known if tokenizer.is_added(token)]
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)


class Grammars:
    """Compiles constraints for a tokenizer and a model's vocabulary. `eos_ids` may end an answer that is complete."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Collection[int]):
        self._vocabulary = _Vocabulary(tokenizer, vocab_size, min(eos_ids))
        self._eos_ids, self._vocab_size = list(eos_ids), vocab_size
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._markup: Markup | None = None
        self._thinking: Thinking | None = None
        self._compiled: dict[Constraint, Grammar] = {}

    def compile(self, constraint: Constraint) -> Grammar:
        """Returns the grammar of a constraint.

        Raises ValueError, which names what is wrong, for keywords that are not supported, a schema that nothing
        satisfies, an expression that cannot be read, and one that is too complex.
        """
        if (known := self._compiled.get(constraint)) is not None:
            return known
        if self._tokenizer is None:  # a second for the official vocabulary
            wrapper = llguidance.TokenizerWrapper(self._vocabulary)
            self._tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=self._vocab_size, eos_token=self._eos_ids)
        if constraint.after_thinking:
            if self._thinking is None:
                self._thinking = thinking_of(self._vocabulary.tokenizer, self._vocab_size)
            return self.compile(replace(constraint, after_thinking=False)).after(self._thinking)
        grammar = self._of_calls(constraint) if constraint.kind == "tools" else self._grammar(_source(constraint))
        if isinstance(grammar, str):
            raise ValueError(f"{constraint.kind} {_short(constraint.text)} is not allowed: {grammar}")
        while len(self._compiled) >= KEPT:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[constraint] = grammar
        return grammar

    def _grammar(self, source: str, markup: Markup | None = None) -> Grammar | str:
        """Returns the grammar of a source, or what is wrong with it."""
        limits = llguidance.LLParserLimits(
            max_items_in_row=ROW_ITEMS, initial_lexer_fuel=LEXER_FUEL, verbose_errors=False
        )
        assert self._tokenizer is not None
        make = functools.partial(llguidance.LLMatcher, self._tokenizer, source, log_level=0, limits=limits)
        matcher = make()
        problems = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
        if problems:
            return _one_line("; ".join(problems))
        grammar = Grammar(make, self._vocab_size, markup)
        return grammar.start(matcher).problem_at_once() or grammar

    def _of_calls(self, constraint: Constraint) -> Grammar:
        """Returns the grammar of tool calls. Raises ValueError, which names tool and parameter."""
        if self._markup is None:
            self._markup = Markup(self._vocabulary.tokenizer, self._vocab_size)
        source, parts = call_grammar(calls_of(constraint.text), self._markup.marker, JSON_OPTIONS)
        grammar = self._grammar(_lark(source), self._markup)
        for part in parts:  # a place in the whole would say nothing to who wrote the schema
            if isinstance(grammar, str) or part.text:
                self._check(part)
        if isinstance(grammar, str):
            raise ValueError(f"tools are not allowed: {grammar}")
        return grammar

    def _check(self, part: Part) -> None:
        """Raises ValueError for a parameter that cannot be compiled, and for one whose text no text satisfies."""
        rule, *lines = part.lines
        starts = [f"start: {rule.split(':')[0]}"] + ([f"start: {part.text}"] if part.text else [])
        for start in starts:
            tried = self._grammar(_lark("\n".join([start, "d: <[0]>", rule, *lines])))
            if isinstance(tried, str):
                tried = "no text satisfies it" if "NoExtensionBias" in tried else tried
                said = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", tried.split(" 1 | ")[0])
                raise ValueError(f"{part.place}: {said.strip()}")


def _source(constraint: Constraint) -> str:
    if constraint.kind == "regex":
        return str(llguidance.LLMatcher.grammar_from_regex(constraint.text))
    if constraint.kind == "choices":
        # one lexeme, an automaton; a rule with thousands of alternatives meets the limits of a parser
        texts = (
            json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") for text in json.loads(constraint.text)
        )
        return _lark(f"start: CHOICE\nCHOICE: {' | '.join(texts)}")
    return str(llguidance.LLMatcher.grammar_from_json_schema(constraint.text, overrides=JSON_OPTIONS))  # type: ignore[arg-type]


def _lark(source: str) -> str:
    return str(llguidance.LLMatcher.grammar_from_lark(f"{source}\n"))


def _one_line(error: str) -> str:
    """Returns an error of llguidance without the dump of its state, and without options that nobody has here."""
    text = error.split("<state>")[0].split("<non-verbose/>")[0].split("Enable 'coerce_one_of'")[0]
    return _short(" ".join(text.split()))


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


class Grammar:
    """A constraint that compiles. `make` returns a matcher of it.

    Each answer has one of its own: copies of a matcher share a lexer, and where one of them meets its limits all end.
    """

    def __init__(
        self, make: Callable[[], llguidance.LLMatcher], vocab_size: int, markup: Markup | None = None,
        thinking: Thinking | None = None,
    ):  # fmt: skip
        self._make, self._vocab_size, self._markup, self._thinking = make, vocab_size, markup, thinking

    def after(self, thinking: Thinking) -> Grammar:
        """Returns the grammar of an answer that reasons first."""
        return Grammar(self._make, self._vocab_size, self._markup, thinking)

    def start(self, matcher: llguidance.LLMatcher | None = None) -> GrammarState:
        """Returns the state before an answer's first token. `matcher`: one of `make` that nothing has used."""
        markup = None if self._markup is None else self._markup.start()
        return GrammarState(self._make() if matcher is None else matcher, self._vocab_size, markup, self._thinking)


class GrammarState:
    """How far the text of one answer is. `error` says why its grammar cannot go on, as where it meets its limits.

    `thinking`: the answer reasons first, and its grammar has not begun.
    """

    def __init__(
        self, matcher: llguidance.LLMatcher, vocab_size: int, markup: MarkupState | None = None,
        thinking: Thinking | None = None,
    ):  # fmt: skip
        self._matcher, self._vocab_size, self._markup, self._thinking = matcher, vocab_size, markup, thinking
        self._mask: Tensor | None = None
        self.error = ""

    def problem_at_once(self) -> str:
        """Takes a first token. Returns why no answer can come to its second one, or an empty text."""
        if not (places := self.mask.nonzero()[:, 0].tolist()) or self.error:
            return self.error or "no text satisfies it"
        word = int(self.mask[places[0]]) & 0xFFFFFFFF
        self.advance(32 * places[0] + (word & -word).bit_length() - 1)
        if not self.is_complete:
            _ = self.mask
        return self.error

    @property
    def mask(self) -> Tensor:
        """int32 [ceil(vocab / 32)] whose bit i allows token i next: EOS where the text may end."""
        if self._thinking is not None:
            return self._thinking.mask
        if self._mask is None:
            words = torch.zeros(-(-self._vocab_size // 32), dtype=torch.int32)
            self._matcher.unsafe_compute_mask_ptr(words.data_ptr(), words.nbytes)
            if self._markup is not None:
                self._markup.restrict(words)
                if not self.error and not words.any():
                    self.error = f"its grammar cannot go on: nothing but {DSML} could follow"
            self._check()
            self._mask = words
        return self._mask

    @property
    def only_token(self) -> int | None:
        """The one token that is allowed next, or None."""
        places = self.mask.nonzero()[:, 0]
        if len(places) != 1:
            return None
        bits = int(self.mask[places[0]]) & 0xFFFFFFFF
        return None if bits & (bits - 1) else 32 * int(places[0]) + bits.bit_length() - 1

    @property
    def is_complete(self) -> bool:
        """True if nothing may follow a text that satisfies it."""
        return self._thinking is None and bool(self._matcher.is_stopped()) and not self.error

    def advance(self, token: int) -> None:
        """Is told of the next token, which the mask allowed."""
        if self._thinking is not None:
            self._thinking = None if token == self._thinking.end else self._thinking
            return
        self._mask = None
        self._matcher.consume_token(token)
        if self._markup is not None:
            self._markup = self._markup.after(token)
        self._check()

    def masks(self, drafts: Sequence[int]) -> list[Tensor | None]:
        """Returns the mask of the next token, then those after each draft; None after a draft that is not allowed."""
        if self._thinking is not None:
            return self._masks_while_thinking(self._thinking, drafts)
        masks: list[Tensor | None] = [self.mask]
        taken, markup = 0, self._markup
        for draft in drafts:
            if self._matcher.is_stopped() or not (markup is None or markup.allows(draft)):
                break
            if not self._matcher.try_consume_tokens([draft]):
                break
            taken, markup = taken + 1, None if markup is None else markup.after(draft)
            state = GrammarState(self._matcher, self._vocab_size, markup)
            masks.append(None if self._matcher.is_stopped() else state.mask)
        self._matcher.rollback(taken)
        self._check()
        return masks + [None] * (1 + len(drafts) - len(masks))

    def _masks_while_thinking(self, thinking: Thinking, drafts: Sequence[int]) -> list[Tensor | None]:
        count = thinking.num_allowed(drafts)
        masks: list[Tensor | None] = [thinking.mask] * count
        if count and drafts[count - 1] == thinking.end:
            form = GrammarState(self._matcher, self._vocab_size, self._markup)
            return masks + form.masks(drafts[count:])
        return masks + [thinking.mask] + [None] * (len(drafts) - count)

    def _check(self) -> None:
        if self._matcher.is_error():
            self.error = f"its grammar cannot go on: {_one_line(self._matcher.get_error())}"
