"""Structured output: answers are valid by jsonschema and by re, and what cannot be held is refused by name.

Constrained requests run beside free ones, with drafts and without, to the same tokens.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator

import jsonschema
import pytest
import torch
from scipy.stats import chisquare

from tests.engine.schemas import LARGE, LEAVES, RECURSIVE, REFUSED, SCHEMAS, UNIONS, Schema
from wavefold import LLM, Sampling, ops
from wavefold.chat import Prompt
from wavefold.engine.answer import Answer
from wavefold.engine.choosing import allowed_by, by_torch, next_tokens
from wavefold.engine.grammar import Constraint, Grammars
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.rows import choice_rows
from wavefold.engine.schemas import problem_of_schema
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels were not built")
ENDED = ("eos", "stop")
FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
"""jsonschema checks times by another package, which is not needed for these two (RFC 3339)."""
CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?([zZ]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"


@FORMATS.checks("time")
def is_time(value: object) -> bool:
    return re.fullmatch(CLOCK, str(value)) is not None


@FORMATS.checks("date-time")
def is_date_time(value: object) -> bool:
    day, clock = str(value)[:10], str(value)[10:]
    return bool(datetime.date.fromisoformat(day)) and re.fullmatch(f"[tT]{CLOCK}", clock) is not None


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with ops.using(backend="auto"), LLM(batch_invariant=True) as llm:
        yield llm


def sampled(schema: Schema | bool, seed: int = 0, max_tokens: int = 160) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=1.0, seed=seed, json_schema=schema)  # type: ignore[arg-type]


class TestSchemas:
    def test_every_answer_is_valid(self, llm: LLM) -> None:
        """All that ended by themselves, which most must have."""
        answers = llm.generate(["x = "] * len(SCHEMAS), [sampled(schema, n) for n, schema in enumerate(SCHEMAS)])
        ended = 0
        for schema, answer in zip(SCHEMAS, answers, strict=True):
            assert answer.finish_reason in (*ENDED, "length"), (schema, answer.error)
            if answer.finish_reason in ENDED:
                ended += 1
                value = json.loads(answer.text)
                jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)
        assert ended >= 0.9 * len(SCHEMAS)

    def test_the_set_is_what_it_says(self) -> None:
        keywords: set[str] = set()

        def walk(part: object) -> None:
            if isinstance(part, dict):
                keywords.update(part)
            for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
                walk(value)

        walk(LEAVES)
        assert len(SCHEMAS) == 300 and 5 * len([*RECURSIVE, *UNIONS]) >= 40
        assert keywords >= {
            "type", "enum", "const", "minLength", "maxLength", "pattern", "format", "minimum", "maximum",
            "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "items", "prefixItems", "minItems", "maxItems",
            "properties", "required", "additionalProperties", "patternProperties", "maxProperties", "anyOf", "oneOf",
            "allOf", "$ref", "$defs", "definitions",
        }  # fmt: skip

    @pytest.mark.parametrize("schema", LARGE, ids=["union", "options", "items", "tree"])
    def test_large_schemas(self, llm: LLM, schema: Schema) -> None:
        answers = llm.generate(["x = "] * 3, [sampled(schema, seed, 2500) for seed in range(3)])
        for answer in answers:
            assert answer.finish_reason in ENDED, answer.error
            jsonschema.validate(json.loads(answer.text), schema)

    @pytest.mark.parametrize(("schema", "word"), REFUSED, ids=lambda value: str(value)[:60])
    def test_what_cannot_be_held_is_refused_by_name(self, llm: LLM, schema: Schema, word: str) -> None:
        with pytest.raises(ValueError, match=rf"json_schema .* is not allowed: .*{re.escape(word)}"):
            llm.generate(["x"], sampled(schema))

    @pytest.mark.parametrize("ends", [True, False])
    @pytest.mark.parametrize("step", [1, -1])
    def test_long_chains_of_references(self, ends: bool, step: int) -> None:
        """In either order: a thousand arrays, each of the next, end where the last one does."""
        parts: dict[str, object] = {
            f"a{n}": {"type": "array", "minItems": 1, "items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(1000)
        }
        parts["a1000"] = {"type": "null"} if ends else {"$ref": "#/$defs/a0"}
        schema = {"$defs": dict(list(parts.items())[::step]), "$ref": "#/$defs/a0"}
        assert ("without end" in problem_of_schema(schema)) is not ends

    def test_a_text_is_a_schema_too(self, llm: LLM) -> None:
        sampling = Sampling(max_tokens=20, json_schema='{"enum": ["only"]}')
        assert llm.generate(["x"], sampling)[0].text == '"only"'


class TestOthers:
    def test_choices(self, llm: LLM) -> None:
        choices = ("left", "left or right", 'a "quote"\nä', "<｜end▁of▁sentence｜>")
        answers = llm.generate(["go "] * 40, [Sampling(max_tokens=40, seed=n, choices=choices) for n in range(40)])
        assert {answer.text for answer in answers} <= set(choices) and len({answer.text for answer in answers}) > 1
        assert all(answer.finish_reason in ENDED for answer in answers)

    @pytest.mark.parametrize("number", [2500, 6000])
    def test_thousands_of_choices(self, llm: LLM, number: int) -> None:
        choices = [f"item {n} of {n * n}" for n in range(number)] + ["\x7f", "\u2028"]
        answers = llm.generate(["x = "], Sampling(max_tokens=40, seed=1, temperature=1.5, n=20, choices=choices))
        assert {answer.text for answer in answers} <= set(choices)
        assert {answer.finish_reason for answer in answers} <= set(ENDED)

    def test_a_regular_expression(self, llm: LLM) -> None:
        expression = r"[A-Z][a-z]{1,5}( [0-9]{1,3})?"
        answers = llm.generate(["name: "] * 30, [Sampling(max_tokens=30, seed=n, regex=expression) for n in range(30)])
        assert all(re.fullmatch(expression, answer.text) for answer in answers if answer.finish_reason in ENDED)
        assert sum(answer.finish_reason in ENDED for answer in answers) > 25

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"regex": "("}, r"regex \( is not allowed"),
            ({"regex": "a{1000}{1000}"}, "is not allowed: its grammar cannot go on: lexer error"),
            ({"regex": "a", "choices": ("b",)}, "regex and choices are not allowed together; expected one of them"),
            ({"choices": ("a", "")}, "expected texts of one character or more"),
            ({"choices": "ab"}, "single text"),
            ({"json_schema": "{"}, "json_schema is no JSON"),
            ({"json_schema": {"a": {1, 2}}}, "json_schema is no JSON"),
            ({"json_schema": "[1]"}, r"json_schema \[1\] is not allowed; expected an object of keywords"),
            ({"regex": "a" * (1 << 18) + "b"}, "regex of 262,145 characters is not allowed; expected at most 262,144"),
        ],
    )
    def test_bad_constraints(self, llm: LLM, values: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            llm.generate(["x"], Sampling(**values))  # type: ignore[arg-type]

    def test_a_refusal_disturbs_nobody(self, llm: LLM) -> None:
        alone = llm.generate(["def f("], Sampling(max_tokens=10, temperature=0))[0].tokens
        stream = llm.stream("def f(", Sampling(max_tokens=10, temperature=0))
        next(stream)
        with pytest.raises(ValueError, match="uniqueItems"):
            llm.generate(["x"], sampled({"type": "array", "uniqueItems": True}))
        assert stream.finish().tokens == alone

    def test_a_prompt_that_is_open_is_refused(self, llm: LLM) -> None:
        healed = llm.prompt("def f(n):")
        assert healed.first_ids
        with pytest.raises(ValueError, match="give the prompt as a text or as token ids"):
            llm.generate([healed], Sampling(choices=("a",)))


class TestBeside:
    """Whatever else runs, and with guesses or without, the tokens are the same."""

    SAMPLINGS = tuple(
        [sampled(schema, seed, 60) for seed, schema in enumerate(LEAVES[::4])]
        + [Sampling(max_tokens=30, temperature=1.0, seed=seed) for seed in range(5)]
        + [Sampling(max_tokens=30, seed=3, regex="(ab)*c"), Sampling(max_tokens=30, seed=3, choices=("ab", "abc"))]
    )

    def test_together_as_alone(self, llm: LLM) -> None:
        together = llm.generate(["value = "] * len(self.SAMPLINGS), self.SAMPLINGS)
        for sampling, answer in zip(self.SAMPLINGS, together, strict=True):
            assert llm.generate(["value = "], sampling)[0].tokens == answer.tokens

    def test_with_guesses_as_without(self, llm: LLM) -> None:
        free = llm.generate(["ababab"] * len(self.SAMPLINGS), self.SAMPLINGS)
        with LLM(batch_invariant=True, draft_depth=3) as guessing:
            guessed = guessing.generate(["ababab"] * len(self.SAMPLINGS), self.SAMPLINGS)
        assert [answer.tokens for answer in guessed] == [answer.tokens for answer in free]

    def test_forced_tokens_take_no_pass(self, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        passes: list[int] = []
        forward = llm.model.forward_step

        def counted(*arguments: object) -> torch.Tensor:
            passes.append(1)
            return forward(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(llm.model, "forward_step", counted)
        sampling = Sampling(max_tokens=60, seed=1, regex="[ab]zqzqzqzqzqzqzq[ab]")
        answer = llm.generate(["x"], sampling)[0]
        saved = len(answer.tokens) - len(passes)
        assert saved > 0
        passes.clear()
        same = llm.generate(["x"], Sampling(max_tokens=60, seed=1, regex="[ab]zqzqzqzqzqzqzq[ab]", logprobs=0))[0]
        assert same.tokens == answer.tokens and len(passes) == len(same.tokens), "log probabilities need every pass"


class TestMasks:
    def test_a_mask_is_what_may_follow(self, llm: LLM) -> None:
        """Every token of the vocabulary: allowed exactly if some choice goes on with its bytes, or ends at EOS."""
        tokenizer = llm.tokenizer
        assert tokenizer is not None
        choices = ["left", "let it", "let on", "le", "x"]
        state = self._grammars(llm).compile(Constraint.of(choices=choices)).start()  # type: ignore[arg-type]
        vocab, text = llm.model.config.vocab_size, b""
        for _ in range(3):
            allowed = allowed_by(state.mask, vocab)
            rest = [choice.encode()[len(text) :] for choice in choices if choice.encode().startswith(text)]
            is_forced = len({end[:1] for end in rest}) == 1  # then only the tokens that the tokenizer would write
            for token in range(vocab):
                if tokenizer.is_added(token):
                    assert bool(allowed[token]) == (token == tokenizer.eos_id and b"" in rest)
                else:
                    piece = tokenizer.token_bytes(token)
                    may = any(end.startswith(piece) for end in rest)
                    assert bool(allowed[token]) <= may if is_forced else bool(allowed[token]) == may, (token, piece)
            assert allowed.any()
            token = tokenizer.encode("le" if not text else "t")[0]
            text += tokenizer.token_bytes(token)
            state.advance(token)
            if state.is_complete:
                break

    def test_masks_after_drafts_change_no_state(self, llm: LLM) -> None:
        tokenizer = llm.tokenizer
        assert tokenizer is not None
        state = self._grammars(llm).compile(Constraint.of(regex="(ab|cd){1,4}e")).start()  # type: ignore[arg-type]
        before = state.mask.clone()
        good = tokenizer.encode("ab")
        masks = state.masks([*good, *tokenizer.encode("z"), 5])
        assert masks[0] is not None and torch.equal(masks[0], before)
        assert all(mask is not None for mask in masks[: 1 + len(good)]) and masks[1 + len(good) :] == [None, None]
        for token in good:
            state.advance(token)
        last = masks[len(good)]
        assert last is not None and torch.equal(state.mask, last)

    def test_draws_are_the_models_own_among_what_is_allowed(self, llm: LLM) -> None:
        """Chi-square of 20,000 draws; the kernels and torch draw the same."""
        vocab = llm.model.config.vocab_size
        logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(0)) * 2
        compiled = self._grammars(llm).compile(Constraint.of(regex="[a-f]{5}"))  # type: ignore[arg-type]
        allowed = allowed_by(compiled.start().mask, vocab)
        exact = logits[0].double().masked_fill(~allowed, -torch.inf).softmax(-1)
        counts = torch.zeros(vocab)
        rows = []
        for seed in range(20_000):
            resolved = llm.resolved(Sampling(temperature=1.0, top_p=1.0, seed=seed, regex="[a-f]{5}"))
            answer = Answer(Prompt([1]), resolved, grammar=compiled.start())
            request = Request(seed, [1], 5, sampling=answer)
            rows += choice_rows(PlannedSpan(request, 0, 1, True))
        tokens = next_tokens(logits, rows, [0] * len(rows))
        assert tokens[:500] == by_torch(logits.expand(500, -1), rows[:500])
        counts = torch.bincount(torch.tensor(tokens), minlength=vocab)
        assert counts[~allowed].sum() == 0
        often = exact * len(rows) >= 5
        observed = [*counts[often].tolist(), int(counts[~often].sum())]
        expected = [*(exact[often] * len(rows)).tolist(), float(exact[~often].sum() * len(rows))]
        if expected[-1] < 1e-6:
            observed, expected = observed[:-1], expected[:-1]
        assert chisquare(observed, expected).pvalue > 1e-3

    def test_a_grammar_at_its_limits_ends_its_request_alone(self, llm: LLM) -> None:
        """A lexer that grows too large amid an answer: not an answer that is complete.

        Which of the samples it meets depends on the kernels' last bits; one that ended before is whole.
        """
        alone = llm.generate(["x = "], Sampling(max_tokens=8, temperature=0))[0].tokens
        grows = {"type": "string", "pattern": "^([a-z]{1,100}[0-9]?){50}$"}
        wild = Sampling(max_tokens=200, temperature=2.0, seed=3, n=4, json_schema=grows)
        *bad, good = llm.generate(["x = "] * 2, [wild, Sampling(max_tokens=8, temperature=0)])
        cut = [answer for answer in bad if answer.finish_reason == "error"]
        assert cut and all("its grammar cannot go on: lexer error" in answer.error for answer in cut)
        ended = [answer for answer in bad if answer not in cut]
        assert all(answer.finish_reason == "stop" for answer in ended)
        for text in (json.loads(answer.text) for answer in ended):  # `re` would try every way to cut it
            letters, digits = len(re.findall("[a-z]", text)), re.findall("[0-9]", text)
            assert letters >= 50 >= len(digits) and letters + len(digits) == len(text)
            assert not re.search("^[0-9]|[0-9]{2}", text)
        assert good.tokens == alone

    def test_a_grammar_at_its_limits_is_there_for_others(self, llm: LLM) -> None:
        """For answers beside it with the same constraint, and for later ones."""
        expression = "([a-z]{1,100}[0-9]?){50}"
        calm = Sampling(regex=expression, max_tokens=30, temperature=0)
        [alone] = llm.generate(["x = "], calm)
        wild = [Sampling(regex=expression, max_tokens=200, temperature=3.0, seed=seed) for seed in range(4)]
        *bad, beside = llm.generate(["x = "] * 5, [*wild, calm])
        assert "error" in [answer.finish_reason for answer in bad]
        [later] = llm.generate(["x = "], calm)
        assert [one.finish_reason for one in (alone, beside, later)] == ["length"] * 3
        assert later.tokens == alone.tokens

    @staticmethod
    def _grammars(llm: LLM) -> Grammars:
        assert llm.tokenizer is not None
        return Grammars(llm.tokenizer, llm.model.config.vocab_size, llm.resolved(Sampling()).eos_ids)
