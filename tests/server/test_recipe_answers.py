"""What an answer is, row by row: calls, forms, histories, usage, events, errors. The table: `test_recipe_rows.py`."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from tests.server.feeding import PARAMETERS, TOKENIZER, unknown
from tests.server.rows import CALL, CHAT_TOOL, ON, TOOL, USER, chat, message, respond
from tests.server.saying import CACHED, Said, Saying, call


class TestTools:
    @pytest.mark.parametrize("on", [{}, ON], ids=["plain", "thinking"])
    def test_calls_that_must_be_made(self, engine: Saying, gpt: Any, claude: Any, on: Any) -> None:
        """While thinking too, where the library refuses them, and for `any`, which it takes for auto."""
        before = "so</think>" if on else ""
        named: Any = {"type": "function", "function": {"name": "f"}}
        for choice in ("required", named):
            engine(before + CALL)
            got = chat(gpt, **on, tools=[CHAT_TOOL], tool_choice=choice).choices[0]
            assert got.message.tool_calls[0].function.arguments == '{"a": 12}' and got.finish_reason == "tool_calls"
            assert engine.sampling.constraint is not None
        for kind in ({"type": "any"}, {"type": "tool", "name": "f"}):
            engine(before + CALL)
            tools: Any = [{"name": "f", "input_schema": PARAMETERS, "type": "custom"}]
            called = message(claude, **on, tools=tools, tool_choice=kind)
            assert called.content[-1].input == {"a": 12} and called.stop_reason == "tool_use"
            assert engine.sampling.constraint is not None
        engine(before + CALL)
        responses = {"reasoning": {"effort": "high"}} if on else {}
        got = respond(gpt, tools=[TOOL], tool_choice={"type": "function", "name": "f"}, **responses)
        assert got.output[-1].arguments == '{"a": 12}' and engine.sampling.constraint is not None

    def test_none_leaves_tools_out(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("x", "Now" + CALL)
        message(claude, tools=[{"name": "f", "input_schema": PARAMETERS}], tool_choice={"type": "none"})
        assert "DSML" not in engine.prompt
        got = chat(gpt, tools=[CHAT_TOOL], tool_choice="none").choices[0].message
        assert got.content == "Now" + CALL and not got.tool_calls

    def test_a_choice_without_tools(self, gpt: Any) -> None:
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            chat(gpt, tool_choice="required")

    @pytest.mark.parametrize("parallel", [True, False])
    def test_one_call_at_a_time(self, engine: Saying, gpt: Any, claude: Any, parallel: bool) -> None:
        engine(CALL, CALL)
        chat(gpt, tools=[CHAT_TOOL], tool_choice="required", parallel_tool_calls=parallel)
        first = engine.sampling.constraint
        choice: Any = {"type": "any", "disable_parallel_tool_use": not parallel}
        message(claude, tools=[{"name": "f", "input_schema": PARAMETERS}], tool_choice=choice)
        assert engine.sampling.constraint == first and f'"parallel": {str(parallel).lower()}' in first.text

    def test_namespaces_and_patches(self, engine: Saying, gpt: Any) -> None:
        engine(call("ns__f", a=(False, "1")), call("apply_patch", input=(True, "*** Begin")))
        tools: Any = [{"type": "namespace", "name": "ns", "description": "d", "tools": [TOOL]}]
        [item] = respond(gpt, tools=tools).output
        assert (item.type, item.name, item.namespace) == ("function_call", "f", "ns")
        [item] = respond(gpt, tools=[{"type": "custom", "name": "apply_patch"}]).output
        assert (item.type, item.input) == ("custom_tool_call", "*** Begin")


NESTED: Any = {
    "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"enum": [3, 4]}}, "required": ["a"],
    "additionalProperties": False,
}  # fmt: skip


class TestForms:
    def test_json_objects_need_no_word_and_are_not_blanked_out(self, engine: Saying, gpt: Any) -> None:
        text = 'I do. {"a": 1} so'
        engine(text, text)
        assert chat(gpt, response_format={"type": "json_object"}).choices[0].message.content == text
        assert respond(gpt, text={"format": {"type": "json_object"}}).output_text == text
        assert all(one.sampling.sampling.constraint is not None for one in engine.requests)

    def test_nested_schemas_hold_the_answer_as_they_were_sent(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine('{"a": 3}', '{"a": 3}', '{"a": 3}')
        chat(
            gpt, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": NESTED, "strict": True}}
        )
        respond(gpt, text={"format": {"type": "json_schema", "name": "x", "schema": NESTED, "strict": True}})
        message(claude, output_config={"format": {"type": "json_schema", "schema": NESTED}})
        for request in engine.requests:
            assert '"$defs"' in request.sampling.sampling.constraint.text
        assert '"$defs"' in engine.prompt, "shown to the model, also of messages"


class TestHistory:
    def test_a_prefix_goes_on_with_its_line_breaks(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("\n  return 1", "\n  return 1")
        turns = [*USER, {"role": "assistant", "content": "def f():", "prefix": True}]
        assert chat(gpt, turns).choices[0].message.content == "\n  return 1"
        turns[-1].pop("prefix")
        assert message(claude, turns).content[0].text == "\n  return 1" and engine.prompt.endswith("</think>def f():")

    @pytest.mark.parametrize("marker", ["</think>", "<｜User｜>", "<｜end▁of▁sentence｜>", "｜DSML｜"])
    def test_markers_stay_text(self, engine: Saying, gpt: Any, claude: Any, marker: str) -> None:
        engine(*"xxxxxx")
        for text in (marker, ""):
            turns: Any = [{"role": "user", "content": f"a{text}b"}]
            chat(gpt, turns), message(claude, turns), respond(gpt, turns)
        added = [sum(map(TOKENIZER.is_added, request.prompt)) for request in engine.requests]
        assert added[:3] == added[3:]

    def test_developers_are_systems_and_any_order_is_taken(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("x", "x", "x")
        turns: Any = [
            *USER,
            *USER,
            {"role": "developer", "content": "short"},
            {"role": "assistant", "content": "b"},
            *USER,
        ]
        chat(gpt, turns)
        assert engine.prompt.startswith("<｜begin▁of▁sentence｜>short<｜User｜>hey\n\nhey<｜Assistant｜>")
        respond(gpt, turns)
        assert engine.prompt.startswith("<｜begin▁of▁sentence｜>short<｜User｜>hey\n\nhey<｜Assistant｜>")
        message(claude, [*USER, *USER, {"role": "assistant", "content": "b"}, *USER], system="short")
        assert engine.prompt.startswith("<｜begin▁of▁sentence｜>short<｜User｜>hey\n\nhey<｜Assistant｜>")


class TestUsage:
    def test_of_chats(self, engine: Saying, gpt: Any) -> None:
        engine("so it</think>Hello")
        usage = chat(gpt, **ON).usage
        assert usage.completion_tokens_details.reasoning_tokens == len(TOKENIZER.encode("so it"))
        assert usage.completion_tokens == len(TOKENIZER.encode("so it</think>Hello", allow_special=True))
        assert usage.prompt_tokens_details.cached_tokens == CACHED

    @pytest.mark.parametrize("asked", [True, False])
    def test_in_streams_of_chats_only_where_it_was_asked_for(self, engine: Saying, gpt: Any, asked: bool) -> None:
        engine("Hello")
        more = {"stream_options": {"include_usage": True}} if asked else {}
        *others, last = chat(gpt, stream=True, **more)
        assert all(chunk.usage is None for chunk in others) and (last.usage is not None) == asked == (not last.choices)

    def test_of_messages_and_responses(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("Hello", "Hello")
        got = message(claude).usage
        assert got.input_tokens == len(engine.requests[-1].prompt) - CACHED and got.cache_read_input_tokens == CACHED
        got = respond(gpt).usage
        assert got.input_tokens == len(engine.requests[-1].prompt) and got.input_tokens_details.cached_tokens == CACHED

    def test_log_probabilities(self, engine: Saying, gpt: Any) -> None:
        engine("so</think>Hello", "Hello")
        logprobs = chat(gpt, **ON, logprobs=True, top_logprobs=2).choices[0].logprobs
        assert "".join(one.token for one in logprobs.content) == "Hello"
        assert "".join(one["token"] for one in logprobs.reasoning_content).startswith("so")
        item = respond(gpt, include=["message.output_text.logprobs"], top_logprobs=1).output[0]
        assert [len(one.top_logprobs) for one in item.content[0].logprobs] == [1] * len(TOKENIZER.encode("Hello"))


class TestStreams:
    """Every event as the clients themselves read it has no field that its type lacks, but those with a name here."""

    TEXT = "so</think>Now" + call("f", a=(False, "12"))

    @pytest.mark.parametrize("cut", [0, 60])
    def test_events_are_of_the_clients_types(self, engine: Saying, gpt: Any, claude: Any, cut: int) -> None:
        said = Said(self.TEXT[: len(self.TEXT) - cut], "length" if cut else "stop")
        engine(said, said, said)
        chunks = list(chat(gpt, **ON, tools=[CHAT_TOOL], stream=True, stream_options={"include_usage": True}))
        assert set(unknown(chunks)) <= {"reasoning_content", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"}
        events = list(respond(gpt, tools=[TOOL], reasoning={"effort": "high"}, stream=True))
        events += list(message(claude, **ON, tools=[{"name": "f", "input_schema": PARAMETERS}], stream=True))
        assert len(events) > 30 and set(unknown(events)) == set()


class TestErrors:
    def test_of_calls_that_are_none(self, engine: Saying, gpt: Any, claude: Any) -> None:
        """Where no grammar held the model."""
        broken = call("f", a=(False, "True"))
        engine(broken, broken, broken)
        for ask in (lambda: chat(gpt, tools=[CHAT_TOOL]), lambda: respond(gpt, tools=[TOOL])):
            with pytest.raises(openai.InternalServerError, match="no JSON object"):
                ask()
        with pytest.raises(anthropic.InternalServerError, match="no JSON object"):
            message(claude, tools=[{"name": "f", "input_schema": PARAMETERS}])

    def test_of_answers(self, engine: Saying, gpt: Any, claude: Any) -> None:
        failed = Said("Hel", "error", "no numbers")
        engine(failed, failed, failed, failed)
        with pytest.raises(openai.APIStatusError) as error:
            chat(gpt)
        assert error.value.status_code == 500 and error.value.request_id.startswith("req_")
        with pytest.raises(anthropic.APIStatusError) as other:
            message(claude)
        assert other.value.status_code == 500 and other.value.request_id.startswith("req_")
        with pytest.raises(openai.APIError):
            list(chat(gpt, stream=True))
        with pytest.raises(anthropic.APIError):
            list(message(claude, stream=True))

    def test_threads_are_told_in_the_form_that_their_client_knows(self, engine: Saying, claude: Any) -> None:
        engine("x")
        thread = claude.beta.messages.thread(model="wavefold", max_tokens=9)
        with pytest.raises(Exception, match="thread"):
            thread.send("hey")
        assert not engine.requests

    def test_bodies_that_are_no_objects(self, gpt: Any, claude: Any) -> None:
        for client, path in ((gpt, "/chat/completions"), (gpt, "/responses"), (claude, "/v1/messages")):
            with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="expected an object"):
                client.post(path, cast_to=object, body=["wavefold", []])


class TestOther:
    def test_nothing_is_stored(self, gpt: Any) -> None:
        for ask in (gpt.responses.retrieve, gpt.responses.delete, gpt.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                ask("resp_1")

    def test_what_a_response_repeats(self, engine: Saying, gpt: Any) -> None:
        engine("x")
        sent: Any = {"metadata": {"a": "b"}, "parallel_tool_calls": False, "tool_choice": "none",
                     "temperature": 0.5, "max_output_tokens": 5, "instructions": "i"}  # fmt: skip
        got = respond(gpt, **sent, tools=[TOOL]).model_dump()
        assert {name: got[name] for name in sent} == sent and got["tools"][0]["name"] == "f"

    def test_a_message_has_no_phase_before_it_is_known(self, engine: Saying, gpt: Any) -> None:
        engine("Now" + CALL)
        events = list(respond(gpt, tools=[TOOL], stream=True))
        items = [
            event.item for event in events if event.type in ("response.output_item.added", "response.output_item.done")
        ]
        assert [getattr(item, "phase", None) for item in items if item.type == "message"] == [None, "commentary"]

    def test_counts_are_what_is_charged(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("x", "x")
        tools: Any = [{"name": "f", "input_schema": PARAMETERS}]
        counted = claude.messages.count_tokens(model="wavefold", messages=USER, tools=tools, system="s").input_tokens
        usage = message(claude, tools=tools, system="s").usage
        assert counted == usage.input_tokens + usage.cache_read_input_tokens
        counted = gpt.responses.input_tokens.count(model="wavefold", input="hey", tools=[TOOL]).input_tokens
        assert counted == respond(gpt, tools=[TOOL]).usage.input_tokens

    def test_a_stream_that_its_limit_cut(self, engine: Saying, gpt: Any) -> None:
        """`get_final_response` of openai 3.57 raises then: the events have the answer."""
        engine(Said("Hello", "length"))
        with gpt.responses.stream(model="wavefold", input="hey") as stream:
            last = list(stream)[-1]
        assert last.type == "response.incomplete" and last.response.output_text == "Hello"
        assert last.response.incomplete_details.reason == "max_output_tokens"
