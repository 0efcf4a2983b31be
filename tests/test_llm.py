"""`wavefold.LLM`, the front door: completes, streams, chats, closes, says what it is; and the README's first lines."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import weakref
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

import wavefold
from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import LLM, Arithmetic, Completion, Sampling, Transformer, load, ops
from wavefold.chat import heal
from wavefold.chat.encoding import encode_chat, turn_ids
from wavefold.checkpoint import random_model
from wavefold.checkpoint.side_files import GENERATION_CONFIG
from wavefold.cli.main import build_parser
from wavefold.cli.models import add_arithmetic, arithmetic_of
from wavefold.engine import ResolvedSampling, generate
from wavefold.engine.adjust import Adjustments
from wavefold.locate import DEFAULT_MODEL
from wavefold.system import Notice

ROOT = Path(__file__).resolve().parents[1]
CONFIG = SMALL_WITH_TEXT
GREEDY = Sampling(max_tokens=6, temperature=0)
MB = 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with a tokenizer of bytes. It is shared: do not change it."""
    return small_model(tmp_path_factory.mktemp("llm") / "model", CONFIG)


@pytest.fixture
def llm(folder: Path) -> LLM:
    return LLM(folder)


class TestGenerate:
    def test_gives_the_tokens_of_the_engine(self, llm: LLM) -> None:
        """A text is run after BOS with its last token healed, token ids are run as they are."""
        assert llm.tokenizer is not None
        prompt = heal(llm.tokenizer, llm.tokenizer.encode("def f", bos=True))
        text, ids = llm.generate(["def f", [5, 6, 7]], GREEDY)
        assert list(text.tokens) == list(generate(llm.model, prompt.ids, 6, 0, first_ids=prompt.first_ids))
        assert text.text == llm.tokenizer.decode(text.tokens, len(prompt.taken), show_special=False)
        assert list(ids.tokens) == list(generate(llm.model, [5, 6, 7], 6, 0))
        assert (text.usage.prompt_tokens, ids.usage.prompt_tokens) == (6, 3)
        assert (text.finish_reason, text.usage.decode_tokens) == ("length", 5)

    def test_sampling_is_the_seeds(self, llm: LLM) -> None:
        first, same, other = (llm.generate(["a"], Sampling(8, seed=seed))[0].tokens for seed in (3, 3, 4))
        assert first == same != other

    def test_a_stop_id_ends_it(self, llm: LLM) -> None:
        [free] = llm.generate(["a"], GREEDY)
        [stopped] = llm.generate(["a"], Sampling(6, 0, stop_ids=(free.tokens[2],)))
        assert stopped.finish_reason == "stop"
        assert stopped.tokens == free.tokens[: free.tokens.index(free.tokens[2])]

    def test_filters_and_adjustments(self, llm: LLM) -> None:
        """They reach the engine: one token is left, one is forced, one alternates with another."""
        [greedy] = llm.generate([[5, 6]], GREEDY)
        for one in (Sampling(6, 5.0, top_k=1), Sampling(6, 5.0, min_p=1.0)):
            assert llm.generate([[5, 6]], one)[0].tokens == greedy.tokens
        [forced] = llm.generate([[5, 6]], replace(GREEDY, logit_bias={7: 100.0}))
        assert forced.tokens == (7,) * 6
        adjustments = Adjustments(1.5, 1.0, 2.0, {7: 9.0})
        [penalized] = llm.generate([[5, 6]], replace(GREEDY, **vars(adjustments)))
        assert list(penalized.tokens) == list(generate(llm.model, [5, 6], 6, 0, adjustments=adjustments))
        assert penalized.tokens != greedy.tokens

    @pytest.mark.parametrize("start", [0, 3, 17])
    def test_a_stop_text_ends_it(self, llm: LLM, start: int) -> None:
        """It is not in the text, its tokens are in the ids, and the answer's stream is closed."""
        sampling = Sampling(40, seed=1)
        [free] = llm.generate(["a"], sampling)
        assert free.text is not None and len(free.text) > 25
        stop = free.text[start : start + 4]
        stream = llm.stream("a", replace(sampling, stop=("never there", stop)))
        pieces = list(stream)
        assert "".join(pieces) == stream.completion.text == free.text[: free.text.index(stop)]
        assert stream.completion.finish_reason == "stop"
        assert stream.completion.tokens == free.tokens[: len(stream.completion.tokens)] != free.tokens
        [other] = llm.generate(["a"], replace(sampling, stop=("never there",)))
        assert (other.text, other.finish_reason) == (free.text, "length")

    def test_prompts_are_answered_together_and_in_order(self, folder: Path) -> None:
        llm, seen = LLM(folder, "exact"), []
        prompts = ["def f", [5, 6, 7], "a", [9]]
        samplings = [
            Sampling(length, temperature, seed=4) for length, temperature in ((9, 0.0), (2, 1.0), (5, 1), (1, 0))
        ]
        alone = [llm.generate([one], sampling)[0].tokens for one, sampling in zip(prompts, samplings, strict=True)]
        together = llm.generate(prompts, samplings, lambda *progress: seen.append(progress))
        assert [completion.tokens for completion in together] == alone
        assert seen[0] == (0, 4) and seen[-1] == (4, 4) and [done for done, _ in seen] == sorted({d for d, _ in seen})
        assert llm.generate([]) == []
        with pytest.raises(ValueError, match="4 samplings for 1 prompts; expected one, or one for each"):
            llm.generate(["a"], samplings)

    def test_one_mistake_runs_nothing(self, llm: LLM) -> None:
        with pytest.raises(ValueError, match="token 300 is not allowed"):
            llm.generate(["a", [300]], GREEDY)
        assert llm._runner is not None and llm._runner.idle

    def test_several_answers(self, llm: LLM) -> None:
        answers = llm.generate(["a", "b"], Sampling(8, n=3, seed=2))
        assert [answer.index for answer in answers] == [0, 1, 2] * 2
        assert len({answer.tokens for answer in answers}) == 6
        assert answers[0].tokens == llm.generate(["a"], Sampling(8, seed=2))[0].tokens

    def test_echo(self, llm: LLM) -> None:
        assert llm.tokenizer is not None
        [plain], [echoed] = llm.generate(["def f"], GREEDY), llm.generate(["def f"], replace(GREEDY, echo=True))
        assert plain.text is not None and echoed.text == "def f" + plain.text and echoed.tokens == plain.tokens
        ids = llm.tokenizer.encode("def f")
        stream = llm.stream(ids, replace(GREEDY, echo=True))
        assert next(stream) == "def f"
        assert stream.finish().text == "def f" + (llm.generate([ids], GREEDY)[0].text or "")

    def test_log_probabilities(self, llm: LLM) -> None:
        [plain] = llm.generate([[5, 6, 7]], GREEDY)
        assert plain.logprobs is plain.prompt_logprobs is None
        [answer] = llm.generate([[5, 6, 7]], replace(GREEDY, logprobs=2, prompt_logprobs=0))
        assert answer.logprobs is not None and answer.prompt_logprobs is not None
        assert tuple(entry.id for entry in answer.logprobs) == answer.tokens == plain.tokens
        assert all(entry.rank == 0 and entry.best[0] == (entry.id, entry.logprob) for entry in answer.logprobs)
        assert [entry and entry.id for entry in answer.prompt_logprobs] == [None, 6, 7]

    def test_drafts_change_no_token(self, folder: Path) -> None:
        """In float32, by plain torch, the most likely tokens do not depend on the rows of a pass."""
        prompts = ["ab" * 20, [5, 6, 7] * 9]
        expected = [completion.tokens for completion in LLM(folder, "exact").generate(prompts, Sampling(40, 0))]
        drafted = LLM(folder, "exact", draft_depth=4).generate(prompts, Sampling(40, 0))
        assert [completion.tokens for completion in drafted] == expected

    def test_every_field_is_honoured(self) -> None:
        """A field that somebody adds to `Sampling` reaches the answer."""
        honoured = {field.name for field in fields(ResolvedSampling)} | {field.name for field in fields(Adjustments)}
        renamed = {"stop_ids", "show_special"}  # eos_ids and other_ids; an argument of Answer
        renamed |= {
            "json_schema",
            "regex",
            "choices",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "thinking",
        }  # constraint
        assert {field.name for field in fields(Sampling)} == (honoured | renamed) - {
            "fit_window", "eos_ids", "other_ids", "adjustments", "constraint",
        }  # fmt: skip

    def test_defaults_are_the_checkpoints(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "m")
        defaults = {"max_new_tokens": 3, "do_sample": False, "min_length": 2}
        (tmp_path / "m" / GENERATION_CONFIG).write_text(json.dumps(defaults))
        llm = LLM(tmp_path / "m")
        with pytest.warns(Notice, match="min_length = 2: not honoured here"):
            [completion] = llm.generate(["a"])
        [again] = llm.generate(["a"], Sampling(max_tokens=3, temperature=0))  # a second warning would be an error
        assert completion.tokens == again.tokens and len(again.tokens) == 3

    @pytest.mark.parametrize(
        ("prompts", "sampling", "message"),
        [
            ("def f", GREEDY, r"prompts = 'def f' is a single text; expected a list: \['def f'\]"),
            ([[]], GREEDY, "the prompt has no tokens"),
            ([[300]], GREEDY, "token 300 is not allowed; expected 0 to 299"),
            ([[5] * 100], Sampling(max_tokens=2**31), "100 prompt tokens and max_tokens = 2147483648 are not allowed"),
            (
                ["a"],
                Sampling(logit_bias={300: 1}),
                r"logit_bias = {300: 1.0} is not allowed",
            ),
        ],
    )
    def test_mistakes(self, llm: LLM, prompts: list[str], sampling: Sampling, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            llm.generate(prompts, sampling)

    def test_without_a_tokenizer(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "m")
        (tmp_path / "m" / "tokenizer.json").unlink()
        llm = LLM(tmp_path / "m")
        stream = llm.stream([5, 6, 7], GREEDY)
        assert [int(piece) for piece in stream] == list(stream.completion.tokens)
        assert stream.completion.text is None
        for prompt, sampling in (("a", GREEDY), ([5], Sampling(stop=("a",)))):
            with pytest.raises(ValueError, match="holds no tokenizer that can be used; give token ids"):
                llm.generate([prompt], sampling)


class TestStream:
    def test_pieces_are_the_completions_text(self, llm: LLM) -> None:
        stream = llm.stream("def f", Sampling(40, seed=1))
        assert stream.completion.finish_reason == "interrupted"
        pieces = list(stream)
        assert all(pieces) and len(pieces) > 5
        assert "".join(pieces) == stream.completion.text
        assert stream.completion.tokens == llm.generate(["def f"], Sampling(40, seed=1))[0].tokens

    def test_may_end_early(self, llm: LLM) -> None:
        stream = llm.stream("def f", Sampling(40, seed=1))
        first = next(stream)
        stream.close()
        rest = "".join(stream)
        assert first + rest == stream.completion.text
        assert stream.completion.finish_reason == "interrupted"
        assert len(stream.completion.tokens) < 40

    def test_streams_side_by_side_are_those_alone(self, folder: Path) -> None:
        """Read in turns, opened at different times; reading one computes the others, whose pieces wait."""
        llm = LLM(folder, "exact")
        samplings = [Sampling(12, temperature, seed=seed) for seed, temperature in ((1, 0.0), (2, 0.8), (3, 0.8))]
        alone = [llm.generate(["def f"], sampling)[0].text for sampling in samplings]
        streams = [llm.stream("def f", samplings[0]), llm.stream("def f", samplings[1])]
        texts = [next(streams[0]), "", ""]
        streams.append(llm.stream("def f", samplings[2]))
        for piece in streams[2]:
            texts[2] += piece
        assert streams[0].completion.finish_reason == "length", "its steps were those of the third"
        for number in (1, 0):
            texts[number] += "".join(streams[number])
        assert texts == alone

    def test_closed_and_dropped_streams_give_their_blocks_back(self, llm: LLM) -> None:
        first, second, third = (llm.stream("def f", Sampling(40, seed=seed)) for seed in (1, 2, 3))
        next(first)
        runner = llm._runner
        assert runner is not None and runner._pool is not None and len(runner._pool.sequences) == 3
        pool = runner._pool
        second.close()
        assert len(pool.sequences) == 2
        del third
        assert len(pool.sequences) == 1
        assert first.finish().finish_reason == "length"
        assert pool.sequences == [] and not pool.snapshots
        pool.check_integrity()  # what is not free is kept for a text that begins alike

    def test_its_with_block_closes_it(self, llm: LLM) -> None:
        with llm.stream("def f", Sampling(40, seed=1)) as stream:
            assert repr(stream) == "<TextStream: 6 prompt tokens, 0 tokens, open>"
            next(stream)
            num_tokens = len(stream.completion.tokens)
        assert llm._runner is not None and llm._runner.idle
        assert repr(stream) == f"<TextStream: 6 prompt tokens, {num_tokens} tokens, interrupted>"
        ended = llm.stream("a", GREEDY)
        ended.finish()
        assert repr(ended) == "<TextStream: 2 prompt tokens, 6 tokens, length>"

    def test_for_an_event_loop(self, llm: LLM) -> None:
        """Two at once, one of which is left early."""
        expected = [llm.generate(["def f"], Sampling(20, seed=seed))[0].text for seed in (1, 2)]

        async def read(seed: int, most: int) -> str:
            text, pieces = "", llm.stream_async("def f", Sampling(20, seed=seed))
            async for piece in pieces:
                text += piece
                if (most := most - 1) == 0:
                    await pieces.aclose()
            return text

        async def both() -> list[str]:
            return await asyncio.gather(read(1, 100), read(2, 3))

        whole, part = asyncio.run(both())
        assert expected[1] is not None
        assert whole == expected[0] and expected[1].startswith(part) and part
        assert llm._runner is not None and llm._runner.idle

    def test_several_answers_are_not_one_stream(self, llm: LLM) -> None:
        with pytest.raises(ValueError, match="n = 2 is not allowed for a stream; expected 1, or `generate`"):
            llm.stream("a", Sampling(n=2))

    def test_a_pool_that_others_use_is_not_replaced(self, folder: Path) -> None:
        llm = LLM(folder, cache_tokens=128)
        stream = llm.stream("a", Sampling(100))
        message = (
            r"2 prompt tokens and max_tokens = 200 need 2 blocks of 128 tokens, and the pool has 1, from "
            r"cache_tokens = 128; expected at most 129 tokens together, or LLM\(cache_tokens=256\) or more"
        )
        for attempt in (lambda: llm.stream("a", Sampling(200)), lambda: llm.generate(["b", "a"], Sampling(200))):
            with pytest.raises(ValueError, match=message):
                attempt()
        assert stream.finish().finish_reason == "length"

    def test_a_pool_that_cannot_grow_under_an_open_stream(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever asks for more is told what to close, and is answered after that."""
        monkeypatch.setattr("wavefold.engine.room.DEFAULT_POOL_TOKENS", 128)
        llm = LLM(folder)
        stream = llm.stream("a", Sampling(100))
        with pytest.raises(ValueError, match=r"cannot grow while .* open streams hold it \(1 now\); .*=256"):
            llm.generate(["a"], Sampling(200))
        stream.close()
        assert llm.generate(["a"], Sampling(200))[0].usage.completion_tokens > 0


class TestScore:
    def test_is_the_log_probability_of_whole_passes(self, folder: Path) -> None:
        llm = LLM(folder, "exact")
        assert llm.tokenizer is not None
        pairs = [("def f", "(x):"), ("a", "b"), ([5, 6, 7], [8, 9])]
        scores = llm.score([first for first, _ in pairs], [more for _, more in pairs])
        for (first, more), entries in zip(pairs, scores, strict=True):
            ids = llm.tokenizer.encode(first, bos=True) if isinstance(first, str) else first
            after = llm.tokenizer.encode(more) if isinstance(more, str) else more
            with torch.no_grad():
                logits = llm.model(torch.tensor([[*ids, *after]]))[0].double().log_softmax(-1)
            expected = [float(logits[len(ids) - 1 + number, token]) for number, token in enumerate(after)]
            assert [entry.id for entry in entries] == after
            assert [entry.logprob for entry in entries] == pytest.approx(expected, abs=1e-4)

    def test_mistakes(self, llm: LLM) -> None:
        for prompts, more, message in (
            (["a"], [], "0 continuations of 1 prompts"), (["a"], [""], "expected one token each"),
            ("a", ["b"], "prompts = 'a' is a single text"), (["a"], "b", "continuations = 'b' is a single text"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=message):
                llm.score(prompts, more)


class TestChat:
    MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi<｜User｜>"})

    def test_is_encoded(self, llm: LLM) -> None:
        assert llm.tokenizer is not None
        prompt = encode_chat(llm.tokenizer, self.MESSAGES).ids
        answer = llm.chat(self.MESSAGES, GREEDY)
        assert list(answer.tokens) == list(generate(llm.model, prompt, 6, 0))
        assert "".join(llm.stream_chat(self.MESSAGES, GREEDY)) == answer.text

    def test_a_next_turn_ends_it(self, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        assert llm.tokenizer is not None
        user, _ = turn_ids(llm.tokenizer)
        monkeypatch.setattr(import_module("wavefold.engine.verdict"), "next_tokens", lambda *args: [user])
        assert llm.chat(self.MESSAGES, GREEDY).finish_reason == "stop"
        assert llm.generate(["hi"], GREEDY)[0].finish_reason == "length"


class TestClose:
    def test_gives_the_model_back_at_once(self, folder: Path) -> None:
        """Without the garbage collector, and with an answer that is still going on."""
        llm = LLM(folder)
        model, stream = weakref.ref(llm.model), llm.stream("a", Sampling(20))
        next(stream)
        llm.close()
        assert model() is None
        with pytest.raises(ValueError, match=r"this LLM of .* was closed before the answer"):
            list(stream)
        assert stream.completion.tokens and stream.completion.finish_reason == "interrupted"

    def test_twice_changes_nothing_and_use_is_refused(self, folder: Path) -> None:
        with LLM(folder) as llm:
            pass
        llm.close()
        with pytest.raises(ValueError, match=r"this LLM of .*model is closed; make another one with LLM\("):
            llm.generate(["a"])
        assert repr(llm) == f"<LLM {folder}: closed>"

    def test_fifty_loads_leave_resident_memory_where_it_was(self) -> None:
        """The model that ships, in a process of its own; the caller collects no garbage."""
        script = (
            "import gc; gc.disable()\n"
            "from wavefold import LLM, Sampling\n"
            "from wavefold.system import rss_bytes\n"
            "def once():\n"
            "    with LLM(threads=1) as llm:\n"
            "        llm.generate(['def f'], Sampling(max_tokens=2))\n"
            "once()\n"
            "before = rss_bytes()\n"
            "for _ in range(50): once()\n"
            "print(rss_bytes() - before)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
        assert int(done.stdout) < 20 * MB


class TestWhatItSays:
    def test_repr(self, folder: Path) -> None:
        said = repr(LLM(folder))
        assert said.startswith(f"<LLM {folder}: 3 layers, 4 experts, ")
        assert said.endswith("; released arithmetic, cpu>")
        assert "; exact, float32 arithmetic, cpu>" in repr(LLM(folder, "exact"))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"threads": 0}, "threads = 0 is not allowed; expected a whole number from 1 to 1,024, or None"),
            ({"device": "abacus"}, "device = abacus cannot be used: Expected one of cpu, cuda"),
            ({"arithmetic": "rough"}, "arithmetic = 'rough' is not allowed"),
            ({"dtype": torch.float32}, r"dtype = torch\.float32 is not allowed with released arithmetic"),
        ],
    )
    def test_mistakes(self, folder: Path, settings: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LLM(folder, **settings)  # type: ignore[arg-type]

    def test_batch_invariance_is_refused_where_it_does_not_hold(self, folder: Path) -> None:
        with ops.using(backend="auto"), pytest.raises(ValueError, match="batch_invariant = True holds for the CPU"):
            LLM(folder, "exact", batch_invariant=True)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="no such folder; expected a GGUF file, or a folder with an official config"
        ):
            LLM(tmp_path / "nowhere")


def test_the_model_that_ships_is_the_default() -> None:
    with LLM() as llm:
        assert llm.folder == DEFAULT_MODEL


def test_one_arithmetic_is_the_default_everywhere(folder: Path) -> None:
    """Of the library, the command line and its help."""
    default = ops.DEFAULT_ARITHMETIC
    models = load(folder), LLM(folder).model, Transformer(CONFIG), random_model(CONFIG, 0)
    assert {model.arithmetic.name for model in models} == {Arithmetic().name} == {default}
    parser = build_parser()
    for command in (["run"], ["bench", "context"], ["bench", "speed"]):
        args = parser.parse_args(command)
        assert arithmetic_of(args) == default
        assert args.arithmetic is None
    helped = argparse.ArgumentParser()
    add_arithmetic(helped)
    assert f"(default {default})" in " ".join(helped.format_help().split())


def test_the_package_lists_what_there_is() -> None:
    names = {"LLM", "Sampling", "Completion", "load", "save", "random_checkpoint", "train", "ModelConfig", "Tokenizer",
             "Transformer", "Pool", "Sequence", "PoolFull", "Arithmetic", "Usage", "TokenLogprob", "TextStream",
             "AsyncTextStream"}  # fmt: skip
    assert names <= set(dir(wavefold))
    assert all(callable(getattr(wavefold, name)) for name in names)
    assert wavefold.Completion is Completion
    fresh = "import sys, wavefold; assert 'LLM' in dir(wavefold) and 'torch' not in sys.modules; wavefold.Tokenizer"
    subprocess.run([sys.executable, "-c", fresh + "; assert 'torch' not in sys.modules"], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'Model'"):
        wavefold.Model  # noqa: B018


def test_the_readmes_first_lines_of_python_print_text(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    assert len(found[1].splitlines()) == 5
    done = subprocess.run([sys.executable, "-c", found[1]], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.strip()) > 20 and re.search(r"[a-z]{3}", done.stdout)


@pytest.mark.parametrize("prompt", [[1.9, 300.7], b"def", 7, None, ["1"]])
def test_a_prompt_that_is_no_text_and_no_ids(prompt: object) -> None:
    """A float would run as another token, bytes as ids, and a flat list of ids is a likely mistake."""
    with LLM() as llm, pytest.raises(ValueError, match="expected a text, or a list of token ids"):
        llm.generate([prompt], Sampling(max_tokens=2))  # type: ignore[list-item]
