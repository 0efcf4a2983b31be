"""Answers that reason first: any text up to `</think>`, and from there on what their form says."""

from __future__ import annotations

import json

import jsonschema
import pytest

from tests.engine.walk import tokens_of
from wavefold import LLM, Sampling, ops
from wavefold.chat import byte_tokenizer, train_tokenizer
from wavefold.chat.special_tokens import DSML, END_THINK, THINK
from wavefold.engine.grammar import Grammars, GrammarState
from wavefold.engine.thinking import thinking_of
from wavefold.ops import native

TOKENIZER = byte_tokenizer()
END = TOKENIZER.token_id(END_THINK)
SCHEMA = {"type": "object", "properties": {"n": {"enum": [12, 345]}}, "required": ["n"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def started(**form: object) -> GrammarState:
    sampling = Sampling(thinking=True, **form)  # type: ignore[arg-type]
    grammars = Grammars(TOKENIZER, TOKENIZER.vocab_size + 5, [TOKENIZER.eos_id])
    return grammars.compile(sampling._constraint).start()  # type: ignore[arg-type]


def test_while_it_reasons_every_ordinary_token_and_the_end_are_allowed() -> None:
    state = started(json_schema=SCHEMA)
    ordinary = {token for token in range(TOKENIZER.vocab_size) if not TOKENIZER.is_added(token)}
    for token in TOKENIZER.encode('{"n": 7} is no form here'):
        assert set(tokens_of(state)) == ordinary | {END}
        assert state.only_token is None and not state.is_complete
        state.advance(token)
    state.advance(END)
    assert state.only_token == TOKENIZER.encode("{")[0]
    for token in TOKENIZER.encode('{"n": 12}'):
        assert token in tokens_of(state)
        state.advance(token)
    assert state.is_complete and not state.error


def test_drafts_have_the_masks_that_their_tokens_meet_one_by_one() -> None:
    drafts = [*TOKENIZER.encode("so"), END, *TOKENIZER.encode('{"n": 1')]
    at_once, one_by_one = started(json_schema=SCHEMA), started(json_schema=SCHEMA)
    masks = at_once.masks(drafts)
    assert len(masks) == len(drafts) + 1
    for mask, token in zip(masks, [*drafts, None], strict=True):
        assert mask is not None and mask.equal(one_by_one.mask)
        if token is not None:
            one_by_one.advance(token)
    assert at_once.masks(drafts)[-1].equal(masks[-1])  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("wrong", [TOKENIZER.eos_id, TOKENIZER.token_id(DSML), TOKENIZER.token_id(THINK)])
def test_a_draft_that_is_not_allowed_ends_the_masks(wrong: int) -> None:
    masks = started(tools=[TOOL]).masks([5 + 40, wrong, 45])
    assert [mask is None for mask in masks] == [False, False, True, True]


def test_a_tokenizer_without_the_end_is_refused() -> None:
    lacking = train_tokenizer([], TOKENIZER.vocab_size)
    lacking.has = lambda token: token != END_THINK  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="thinking needs the token '</think>'"):
        thinking_of(lacking, 300)


@pytest.mark.skipif(not native.available(), reason="the CPU kernels were not built")
@pytest.mark.parametrize("depth", [0, 3])
def test_the_model_that_ships_reasons_and_then_keeps_to_its_form(depth: int) -> None:
    """`</think>` is made likely: the model was not trained to reason."""
    with ops.using(backend="auto"), LLM(draft_depth=depth, drafts="lookup", batch_invariant=True) as llm:
        assert llm.tokenizer is not None
        bias = {llm.tokenizer.token_id(END_THINK): 14.0}
        prompt = llm.tokenizer.encode(f"def f():{THINK}", bos=True, allow_special=True)
        samplings = [
            Sampling(max_tokens=400, seed=seed, thinking=True, logit_bias=bias, json_schema=SCHEMA) for seed in range(4)
        ] + [
            Sampling(max_tokens=400, seed=seed, thinking=True, logit_bias=bias, tools=[TOOL], tool_choice="required")
            for seed in range(4)
        ]  # fmt: skip
        answers = llm.generate([prompt] * len(samplings), samplings)
    lengths = set()
    for answer, sampling in zip(answers, samplings, strict=True):
        reasoning, end, form = (answer.text or "").partition(END_THINK)
        assert end and answer.finish_reason == "stop"
        lengths.add(len(reasoning))
        values = json.loads(form) if sampling.tools is None else answer.tool_calls[0].arguments  # type: ignore[index]
        jsonschema.validate(values, SCHEMA)
        if sampling.tools is not None:
            assert form.startswith(f"\n\n<{DSML}tool_calls>")
    assert len(lengths) > 1
