"""The machine's figures and what is predicted from them: kept once, named limits, refusals with numbers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from tests.gguf_files import TINY, rewritten, tensors_of
from wavefold import system
from wavefold.cli.main import main
from wavefold.config import ModelConfig
from wavefold.model import transformer
from wavefold.plan import machine as machines
from wavefold.plan.cache import packed
from wavefold.plan.machine import Machine, this_machine
from wavefold.plan.predict import PASS_TOKENS, Placed, cache_read, check_fits, decode_rate, need, placed, prefill_rate
from wavefold.plan.tensors import tensor_kinds

FLASH, PRO, NANO = (ModelConfig.preset(name) for name in ("flash", "pro", "nano"))
GIB = 1 << 30
SOME = Machine("a processor, 2 cores", 2, "2.13.0", 34e9, {"float32": 100e9, "bfloat16": 390e9}, 3e9, "/somewhere")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure little: the tests look at what is done with the figures."""
    monkeypatch.setattr(machines, "MEMORY_TENSOR", 1 << 20)
    monkeypatch.setattr(machines, "GEMM_SIZE", 64)
    monkeypatch.setattr(machines, "DISK_FILE", 1 << 20)
    monkeypatch.setattr(machines, "DISK_BLOCK", 1 << 18)


def test_measured_once_and_kept(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, said = tmp_path / "wavefold" / "machine.json", []
    first = this_machine(kept, report=said.append)
    assert said and first.memory_read > 0 and set(first.gemm) == {"float32", "bfloat16"}
    assert first.disk_read is None or first.disk_read > 0
    assert os.stat(kept).st_mode & 0o777 == 0o600 and os.listdir(kept.parent) == ["machine.json"]
    assert this_machine(kept, report=said.append) == first and len(said) == 4
    this_machine(kept, remeasure=True, report=said.append)
    assert len(said) == 8
    monkeypatch.setattr(machines, "cpu_name", lambda: "another")
    assert this_machine(kept).cpu == "another"
    kept.write_text("{ not json")
    assert this_machine(kept).cpu == "another"
    kept.write_text(json.dumps({"rates": {"cpu": "another"}}))
    assert this_machine(kept, report=said.append).threads == torch.get_num_threads()


def test_a_slow_dtype_is_measured_by_a_small_product(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape: sizes.append(shape[0]) or original(*shape))
    assert machines.gemm_rate("float32") > 0 and sizes == [8, 8, 64, 64]
    monkeypatch.setattr(machines, "SLOW_S", 0.0)
    assert machines.gemm_rate("float32") > 0 and sizes == [8, 8, 64, 64, 8, 8]


def test_the_disk_is_read_whole_and_the_file_removed(small: None, tmp_path: Path) -> None:
    machines.disk_read_rate(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pass_is_the_models() -> None:
    assert PASS_TOKENS == transformer.PASS_TOKENS


def test_bytes_of_a_decoded_token() -> None:
    """By hand, Flash at a million tokens: 21 CSA layers, 20 HCA layers, 43 windows."""
    expected = 21 * (250_000 * 68 + 512 * 584) + 20 * 7812 * 584 + 43 * 128 * 584
    assert cache_read(FLASH, 1_000_000, packed(FLASH)) == expected


def test_what_is_needed_adds_up_to_the_checkpoint() -> None:
    needed = need(FLASH, 1_000_000)
    mtp = sum(kind.bytes for kind in tensor_kinds(FLASH) if kind.part == "mtp")
    assert needed.dense + needed.routed + mtp == 159_609_485_896
    assert needed.routed == 43 * 256 * 3 * 4096 * 2048 * (0.5 + 1 / 32)


def test_limits_are_named() -> None:
    """All in memory: bandwidth for a decoded token, arithmetic for a prompt. Experts on disk: the disk."""
    in_memory = placed(FLASH, 4096, 500 * GIB)
    decode, prefill = (rate(FLASH, 4096, SOME, in_memory) for rate in (decode_rate, prefill_rate))
    assert (decode.limit, prefill.limit) == ("memory bandwidth", "arithmetic")
    assert set(decode.seconds) == {"memory bandwidth", "arithmetic"}
    read = 5.857e9 * (1 + 1 / 128**2) + 6.493e9 * (0.5 + 1 / 32) + 0.884e9 * 2 + 0.034e9 * 4  # FP8, FP4, bf16, fp32
    read += cache_read(FLASH, 4096, packed(FLASH))
    assert decode.tokens_per_s == pytest.approx(34e9 / read, rel=1e-3)
    on_disk = decode_rate(FLASH, 4096, SOME, placed(FLASH, 4096, 24 * GIB))
    assert on_disk.limit == "disk"
    share = need(FLASH, 4096).routed_in_memory(24 * GIB)
    assert 0 < share < 1
    assert on_disk.seconds["disk"] == pytest.approx((1 - share) * 6.493e9 * (0.5 + 1 / 32) / 3e9, rel=1e-3)
    assert decode_rate(FLASH, 4096, replace(SOME, memory_read=1e15), in_memory).limit == "arithmetic"


def test_a_budget_decides_the_share_and_the_pass() -> None:
    """The disk's time for a token: the experts that are not in memory, and in a prompt each of them once a pass."""
    half, routed = Placed(0.5, 2048), need(FLASH, 4096).routed
    per_token = 6.493e9 * (0.5 + 1 / 32)
    assert decode_rate(FLASH, 4096, SOME, half).seconds["disk"] == pytest.approx(per_token / 2 / 3e9, rel=1e-3)
    assert prefill_rate(FLASH, 4096, SOME, half).seconds["disk"] == pytest.approx(routed / 2 / 2048 / 3e9, rel=1e-3)
    assert "disk" not in decode_rate(FLASH, 4096, SOME, Placed(1.0)).seconds


def test_what_cannot_fit_is_refused_with_numbers() -> None:
    with pytest.raises(ValueError, match=r"1,000,000 tokens do not fit: 28.69 GB .* 25.77 GB; no context fits"):
        check_fits(PRO, 1_000_000, 24 * GIB)
    with pytest.raises(ValueError, match=r"a context of about ([\d,]+) tokens would fit") as error:
        check_fits(FLASH, 1_000_000, 11 * GIB)
    longest = int(str(error.value).split("about ")[1].split(" ")[0].replace(",", ""))
    check_fits(FLASH, longest - 200, 11 * GIB)
    with pytest.raises(ValueError):
        check_fits(FLASH, longest + 200, 11 * GIB)
    with pytest.raises(ValueError, match="XDG_CACHE_HOME"):
        decode_rate(FLASH, 4096, replace(SOME, disk_read=None), placed(FLASH, 4096, 24 * GIB))


def test_command(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(system, "memory_bytes", lambda: 24 * GIB)
    assert main(["plan", "nano", "--context", "4096", "--machine", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["machine"]
    assert facts["decode"]["tokens_per_s"] > 0 and facts["prefill"]["limit"] in facts["prefill"]["seconds"]
    assert main(["plan", "nano", "--context", "4096", "--machine"]) == 0
    assert facts["decode"]["expected_per_s"] < facts["decode"]["tokens_per_s"]
    assert "expected" in capsys.readouterr().out
    assert main(["plan", "pro", "--machine"]) == 2
    assert "do not fit" in capsys.readouterr().err
    kept = json.loads((tmp_path / "wavefold" / "machine.json").read_text())
    assert kept.keys() == {"rates"} and kept["rates"].keys() == asdict(SOME).keys()


def test_another_machine_and_other_experts(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured where all rates are given; q2_k takes 84 bytes for 256 values."""
    monkeypatch.setattr(machines, "this_machine", None)
    described = ["plan", "flash", "--context", "4096", "--machine", "--memory", "80", "--disk", "6", "--tflops", "2"]
    found = []
    for more in ([], ["--experts", "q2_k"]):
        assert main([*described, "--budget", "500G", *more, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["machine"])
    values = 43 * 256 * 3 * 4096 * 2048
    assert [facts["needed"]["routed"] for facts in found] == [values * 17 // 32, values * 84 // 256]
    spared = 43 * 6 * 3 * 4096 * 2048 * (17 / 32 - 84 / 256) / 80e9
    seconds = [facts["decode"]["seconds"]["memory bandwidth"] for facts in found]
    assert seconds[0] - seconds[1] == pytest.approx(spared, rel=1e-6)
    assert main([*described, "--budget", "60G", "--experts", "q2_k"]) == 0
    printed = capsys.readouterr().out
    assert "a machine" in printed and "of the routed experts fit" in printed


def test_types_are_named_in_any_case(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "this_machine", None)
    described = ["plan", "flash", "--context", "64", "--machine", "--memory", "80", "--disk", "6", "--tflops", "2"]
    found = []
    for name in ("q2_k", "Q2_K"):
        assert main([*described, "--experts", name, "--json"]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--experts", "q2_k"], "--experts q2_k is not allowed alone; expected --machine beside it"),
        (["--disk", "6"], "--disk 6.0 is not allowed alone"),
        (["--memory", "80"], "--memory 80.0 is not allowed alone"),
        (["--ranks", "2", "--disk", "6"], "--disk 6.0 is not allowed with --ranks"),
        (["--machine", "--disk", "inf"], "--disk inf is not allowed; expected a number above 0, in GB/s"),
        (["--machine", "--memory", "inf"], "--memory inf is not allowed"),
        (["--machine", "--tflops", "nan"], "--tflops nan is not allowed; expected a number above 0, in TFLOP/s"),
        (["--budget", "abc"], "--budget = 'abc' is not allowed"),
        (["--machine", "--budget", "abc"], "--budget = 'abc' is not allowed"),
    ],
)
def test_flags_that_nothing_would_read(flags: list[str], says: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "this_machine", None)
    assert main(["plan", "flash", *flags]) == 2
    out = capsys.readouterr()
    assert says in out.err and not out.out


def test_files_have_their_own_types(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the routed experts are those of the file, whatever its configuration says."""
    monkeypatch.setattr(machines, "this_machine", None)
    described = ["--context", "64", "--machine", "--memory", "80", "--disk", "6", "--tflops", "2", "--json"]
    path = rewritten(TINY, tmp_path / "some.gguf", lambda name, kind: "Q8_0" if "_exps" in name else kind)
    sizes = [
        sum(data.nbytes for name, (_, data) in tensors_of(file).items() if "_exps" in name) for file in (TINY, path)
    ]
    for file, size in zip((TINY, path), sizes, strict=True):
        assert main(["plan", str(file), *described]) == 0
        assert json.loads(capsys.readouterr().out)["machine"]["needed"]["routed"] == size
    assert main(["plan", str(path), *described, "--experts", "q2_k"]) == 2
    assert "which have a type" in capsys.readouterr().err
    assert main(["plan", "flash", *described, "--disk", "0"]) == 2
    assert "--disk 0.0 is not allowed" in capsys.readouterr().err
