"""Many adapters in one batch: each answer is that of the adapter alone and of its merged weights, and is nobody else's.

Merged weights in exact float32 are the oracle; PEFT's own results are in tests/checkpoint/test_adapter.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.adapters import write_adapter
from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import LLM, Sampling, ops
from wavefold.checkpoint import load
from wavefold.checkpoint.adapter import read_adapter
from wavefold.checkpoint.merge import merge
from wavefold.model import Step, Transformer
from wavefold.ops import Adapter, native

CONFIG = SMALL_WITH_TEXT.replace(
    index_topk=64, o_lora_rank=128, num_nextn_predict_layers=1, compress_ratios=(0, 4, 128, 0)
)
NUMBER = 32
GREEDY = Sampling(max_tokens=8, temperature=0)
EOS = CONFIG.eos_token_ids
native_only = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("base") / "base", CONFIG)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    dtypes = torch.float32, torch.bfloat16
    return [
        write_adapter(root / str(n), CONFIG, n, rank=1 + n % 9, dtype=dtypes[n % 2], routed=n % 3 == 1)
        for n in range(NUMBER)
    ]


def prompt_of(number: int) -> list[int]:
    """Of different lengths: while some decode, others are read."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 250, (3 + 17 * (number % 5) + 60 * (number % 2),), generator=generator).tolist()


def merged_tokens(base: Path, folder: Path, prompt: list[int]) -> tuple[int, ...]:
    """The answer of the weights with the adapter merged, unrounded: no engine, and no adapter in the passes."""
    model = load(base, "exact")
    merge(model, read_adapter(folder, CONFIG), rounded=False)
    sequence, tokens, answer = model.new_pool(512).open(), list(prompt), list[int]()
    for _ in range(8):
        hidden = model.extend(torch.tensor(tokens), [sequence], [len(tokens)])
        tokens = [int(model.logits(hidden[-1:]).argmax())]
        answer += tokens
    return tuple(answer)


def test_32_adapters_in_one_batch_of_32_answer_as_merged_and_as_alone(base: Path, folders: list[Path]) -> None:
    prompts, names = [prompt_of(number) for number in range(NUMBER)], [str(number) for number in range(NUMBER)]
    with LLM(base, "exact", width=NUMBER, adapters=dict(zip(names, folders, strict=True))) as llm:
        together = [answer.tokens for answer in llm.generate(prompts, GREEDY, adapter=names)]
        plain = [answer.tokens for answer in llm.generate(prompts, GREEDY)]
        assert sum(one != other for one, other in zip(together, plain, strict=True)) > NUMBER // 2
        for number in range(0, NUMBER, 5):
            [alone] = llm.generate([prompts[number]], GREEDY, adapter=names[number])
            assert alone.tokens == together[number]
    for number, tokens in enumerate(together):
        merged = merged_tokens(base, folders[number], prompts[number])
        assert tokens == merged[: len(tokens)] and (len(tokens) == 8 or merged[len(tokens)] in EOS), number


def logits_of(model: Transformer, prompts: list[list[int]], adapters: list[Adapter | None]) -> list[Tensor]:
    """Logits after each prompt, then after each of three more tokens: all together, the last one a pass late."""
    pool = model.new_pool(64 * 128)
    sequences = [pool.open() for _ in prompts]
    for sequence, adapter in zip(sequences, adapters, strict=True):
        sequence.adapter = adapter
    found: list[list[Tensor]] = [[] for _ in prompts]
    left = [[*prompt, 7, 8, 9] for prompt in prompts]
    for number in range(5):
        due = [n for n in range(len(prompts)) if left[n] and (n < len(prompts) - 1 or number)]
        counts = [len(prompts[n]) if len(left[n]) > 3 else 1 for n in due]
        tokens = [token for n, count in zip(due, counts, strict=True) for token in left[n][:count]]
        wanted = [sum(counts[: place + 1]) - 1 for place in range(len(due))]
        step = Step(torch.tensor(tokens), [sequences[n] for n in due], counts, wanted)
        for n, count, row in zip(due, counts, model.forward_step(step), strict=True):
            found[n].append(row)
            del left[n][:count]
    return [torch.stack(rows) for rows in found]


@pytest.fixture
def invariant(base: Path) -> Iterator[Transformer]:
    with ops.using(backend="auto"), LLM(base, batch_invariant=True, threads=2) as llm:
        yield llm.model


@native_only
@pytest.mark.parametrize("arithmetic", ["released", "exact"])
def test_the_kernels_compute_what_the_reference_does(base: Path, folders: list[Path], arithmetic: str) -> None:
    """In bfloat16: about as far from exact float32 as the base alone is from its own."""
    model, wide = load(base, arithmetic, torch.bfloat16), load(base, "exact")
    adapters = [read_adapter(folder, CONFIG) for folder in folders[:6]]
    prompts = [prompt_of(number) for number in range(7)]
    with ops.using(backend="auto"):
        assert model.runs_on_kernels
        value, plain = (torch.cat(logits_of(model, prompts, a)) for a in ([*adapters, None], [None] * 7))
    exact = torch.cat(logits_of(wide, prompts, [*adapters, None]))
    base_exact = torch.cat(logits_of(wide, prompts, [None] * 7))

    def error(one: Tensor, other: Tensor) -> float:
        rows = (one - other).square().mean(-1).sqrt() / other.square().mean(-1).sqrt()
        return float(rows.quantile(0.8))  # a row whose near experts changed places is another row

    assert error(value, exact) < 2 * error(plain, base_exact)
    assert error(value, plain) > 5 * error(value, exact)


@native_only
def test_a_row_has_the_same_bits_in_any_batch_and_layer_by_layer(invariant: Transformer, folders: list[Path]) -> None:
    adapters: list[Adapter | None] = [read_adapter(folder, CONFIG) for folder in folders[:7]]
    adapters[3] = None
    prompts = [prompt_of(number) for number in range(7)]
    together = logits_of(invariant, prompts, adapters)
    for number in range(7):
        [alone] = logits_of(invariant, [prompts[number], [1]], [adapters[number], None])[:1]
        assert torch.equal(alone, together[number]), number
    invariant.tell_chosen(lambda layer, ids: None)  # passes then go layer by layer
    by_layer = logits_of(invariant, prompts, adapters)
    assert all(torch.equal(one, other) for one, other in zip(by_layer, together, strict=True))


@pytest.mark.parametrize("drafts", [{}, {"draft_depth": 3, "drafts": "both"}])
def test_prefixes_of_one_adapter_are_of_no_use_to_others(base: Path, folders: list[Path], drafts, tmp_path) -> None:
    prompt = [*prompt_of(9), *prompt_of(19), *prompt_of(29)]  # three blocks, nearly
    names = ["a", "b", None]
    adapters, disk = {"a": folders[0], "b": folders[1]}, tmp_path / "disk"
    with LLM(base, "exact", adapters=adapters, cache_dir=disk, **drafts) as llm:
        first = [llm.generate([prompt], GREEDY, adapter=name)[0] for name in names]
        again = [llm.generate([prompt], GREEDY, adapter=name)[0] for name in names]
        short = [llm.generate([prompt[:100]], GREEDY, adapter=name)[0] for name in names]
        together = llm.generate([prompt] * 6, GREEDY, adapter=names * 2)
    with LLM(base, "exact", adapters=adapters, prefix_cache=False) as llm:
        cold = [llm.generate([prompt], GREEDY, adapter=name)[0].tokens for name in names]
        cold_short = [llm.generate([prompt[:100]], GREEDY, adapter=name)[0].tokens for name in names]
    assert [one.usage.cached_tokens + one.usage.disk_tokens for one in first] == [0, 0, 0]
    assert all(one.usage.cached_tokens >= len(prompt) // 128 * 128 for one in again)  # with a disk states lie there
    assert [one.tokens for one in first] == [one.tokens for one in again] == cold
    assert [one.tokens for one in together] == cold * 2 and [one.tokens for one in short] == cold_short
    assert len(set(cold)) == 3
    with LLM(base, "exact", adapters=adapters, cache_dir=disk, **drafts) as llm:
        later = [llm.generate([prompt], GREEDY, adapter=name)[0] for name in names]
    assert [one.tokens for one in later] == cold and all(one.usage.disk_tokens >= 256 for one in later)


def test_adapters_come_and_go_while_others_are_answered(base: Path, folders: list[Path]) -> None:
    long = Sampling(max_tokens=40, temperature=0)
    with LLM(base, "exact", adapters={"a": folders[0]}, prefix_cache=False) as llm:
        [expected] = llm.generate([prompt_of(1)], long, adapter="a")
        [other] = llm.generate([prompt_of(1)], long)
        answers: list[list[int]] = []
        stream = llm.stream(prompt_of(1), long, adapter="a")
        next(stream)
        thread = threading.Thread(target=lambda: answers.append(llm.generate([prompt_of(1)], long)[0].tokens))
        thread.start()
        for number in range(1, 6):
            llm.load_adapter(f"new {number}", folders[number])
        llm.load_adapter("a", folders[6])  # replaced for requests to come
        llm.unload_adapter("a")
        with pytest.raises(ValueError, match="adapter = 'a' is not loaded; loaded: new 1, new 2"):
            llm.generate([prompt_of(1)], long, adapter="a")
        assert stream.finish().tokens == expected.tokens
        thread.join()
        assert answers == [other.tokens]
        assert llm.adapters == [f"new {number}" for number in range(1, 6)]


def test_what_cannot_be_used_is_refused(base: Path, folders: list[Path], tmp_path: Path) -> None:
    with LLM(base, "exact") as llm:
        with pytest.raises(ValueError, match="adapter = 'x' is not loaded; loaded: none is"):
            llm.generate([[1]], adapter="x")
        with pytest.raises(ValueError, match="expected a name, or one for each prompt"):
            llm.generate([[1]], adapter=["x", "y"])
        with pytest.raises(ValueError, match="'x' is not loaded"):
            llm.unload_adapter("x")
        with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
            llm.load_adapter("x", tmp_path)
        with pytest.raises(ValueError, match="is no name of an adapter"):
            llm.load_adapter("", folders[0])
        assert llm.adapters == []


def test_the_command_answers_through_an_adapter(base: Path, folders: list[Path], capsys) -> None:
    from wavefold.cli.main import main

    command = ["run", str(base), "-p", "abc", "--max-tokens", "8", "--temperature", "0", "--arithmetic", "exact"]
    assert main(command) == 0
    plain = capsys.readouterr().out
    assert main([*command, "--adapter", str(folders[2])]) == 0
    adapted = capsys.readouterr().out
    with LLM(base, "exact", adapters={"a": folders[2]}) as llm:
        [answer] = llm.generate(["abc"], GREEDY, adapter="a")
    assert adapted != plain and answer.text in adapted
