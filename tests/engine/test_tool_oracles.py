"""Held tool calls against programs that are not ours: xgrammar's tag for V4 takes them, deepseek-recipe reads them.

Both are optional here: `pip install --no-deps xgrammar==0.2.9 apache-tvm-ffi==0.1.15.post2 deepseek-recipe==0.2.0`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.engine import tool_sets
from tests.engine.walk import walk
from wavefold import Sampling
from wavefold.chat import byte_tokenizer
from wavefold.chat.special_tokens import EOS
from wavefold.chat.tool_calls import ToolCall, calls_text, read_calls
from wavefold.engine.grammar import Grammars

TOKENIZER = byte_tokenizer()
GRAMMARS = Grammars(TOKENIZER, TOKENIZER.vocab_size, [TOKENIZER.eos_id])
UNLIKE = [
    schema
    for schema in tool_sets.ALL
    if schema.get("pattern") in ("^a|b$", "[xy]")
    or "items" in schema
    or any(isinstance(value, list | dict) for value in schema.get("enum", ()))
]
"""xgrammar 0.2.9 takes a pattern for one of the whole text, no escapes in texts of limited length inside JSON, and
arrays and objects of an enum without blanks alone."""


def compiled(tools: list[dict[str, Any]], choice: object) -> Any:
    return GRAMMARS.compile(Sampling(tools=tools, tool_choice=choice)._constraint)  # type: ignore[arg-type]


class TestXgrammar:
    def test_takes_every_held_answer(self) -> None:
        xgrammar = pytest.importorskip("xgrammar")
        words = [TOKENIZER.token_bytes(token) for token in range(TOKENIZER.vocab_size)]
        info = xgrammar.TokenizerInfo(words, xgrammar.VocabType.RAW, stop_token_ids=[TOKENIZER.eos_id])
        compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        calls = 0
        for seed in range(100):
            drawn = random.Random(seed)
            tools = tool_sets.tool_set(drawn, [schema for schema in tool_sets.ALL if schema not in UNLIKE])
            for tool in tools:
                del tool["function"]["strict"]  # False would leave xgrammar's arguments free
            name = drawn.choice(tools)["function"]["name"]
            choice = drawn.choice(["required", "auto", {"type": "function", "function": {"name": name}}])
            tokens, reason = walk(compiled(tools, choice), TOKENIZER, drawn)
            assert reason in ("stop", "eos")
            tag = xgrammar.get_model_structural_tag(
                "deepseek_v4", tools=tools, tool_choice=choice, reasoning="disabled"
            )
            matcher = xgrammar.GrammarMatcher(compiler.compile_structural_tag(tag))
            taken = next((n for n, token in enumerate(tokens) if not matcher.accept_token(token)), len(tokens))
            assert taken == len(tokens), (seed, TOKENIZER.decode(tokens[:taken]), TOKENIZER.decode(tokens[taken:]))
            assert matcher.is_terminated() or matcher.accept_token(TOKENIZER.eos_id)
            calls += len(read_calls(TOKENIZER.decode(tokens))[1])
        assert calls > 60


class TestRecipe:
    """deepseek-recipe 0.2.0 reads the tokens as a server would, and writes calls as V4's encoding does."""

    def test_reads_held_answers_as_we_do(self, tmp_path: Path) -> None:
        recipe = pytest.importorskip("deepseek_recipe")
        TOKENIZER.save(tmp_path)
        tokenizer = recipe.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        calls = 0
        for seed in range(100):
            drawn = random.Random(seed)
            tools = tool_sets.tool_set(drawn)
            tokens, _ = walk(compiled(tools, drawn.choice(["required", "auto"])), TOKENIZER, drawn)
            content, ours = read_calls(TOKENIZER.decode(tokens))
            message = read_by_recipe(recipe, tokenizer, tools, tokens)
            theirs = [
                ToolCall(call["function"]["name"], json.loads(call["function"]["arguments"]))
                for call in message.get("tool_calls") or ()
            ]
            assert list(ours) == theirs
            assert (message.get("content") or "").strip() == content.strip()
            calls += len(ours)
        assert calls > 40

    def test_writes_calls_as_we_do(self) -> None:
        recipe = pytest.importorskip("deepseek_recipe")
        arguments = [{}, {"x": "a\n</b", "n": 5}, {"ä": [1, {"b": None}], "t": "", "f": 1.5, "u": " 日本 "}]
        calls = [ToolCall("f", values) for values in arguments]
        theirs = [
            recipe.ToolCall(str(n), call.name, json.dumps(call.arguments, ensure_ascii=False))
            for n, call in enumerate(calls)
        ]
        messages = [recipe.UserMessage("U"), recipe.AssistantMessage("C", tool_calls=theirs), recipe.UserMessage("V")]
        conversation = recipe.Conversation(messages, thinking_mode=False)
        prompt = recipe.DeepseekV4Encoding().render_conversation(conversation).prompt
        assert f"</think>C{calls_text(calls)}{EOS}" in prompt


def read_by_recipe(recipe: Any, tokenizer: Any, tools: list[dict[str, Any]], tokens: list[int]) -> dict[str, Any]:
    """Returns the message that a server would answer."""
    body = {"model": "DeepSeek-V4-Pro", "messages": [{"role": "user", "content": "U"}], "tools": tools}
    bare = [{"type": "function", "function": {"name": tool["function"]["name"]}} for tool in tools]
    request = recipe.ChatCompletionRequest(body | {"tools": bare})
    converted = request.convert(recipe.ConversionOptions(default_thinking_mode=False))
    options = converted.parsing_options
    generator = recipe.ChatCompletionRequest.chunk_generator(converted, "id", "m")
    processor = recipe.StreamProcessor(generator, options, tokenizer)
    answer = recipe.ChatCompletionResponse("id", "m", 0, 1, 0)
    chunks = [recipe.InferenceChunk.ready()]
    chunks += [recipe.InferenceChunk.tokens([token]) for token in tokens]
    chunks += [recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop)]
    for chunk in chunks:
        for part in processor.push(chunk):
            answer.accumulate(part)
    return json.loads(answer.to_json())["choices"][0]["message"]
