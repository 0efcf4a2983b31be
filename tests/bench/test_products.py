"""`wavefold bench gemv` and `rows`: bounds, amounts of work, results, turns with another build, lines on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from tests.small import SMALL
from wavefold import ops
from wavefold.bench.gemv import GemvRow
from wavefold.bench.limits import Limits, LimitsMeter, MemoryMeter
from wavefold.bench.matrices import matrices, stored_bytes
from wavefold.bench.products import Dense, Experts, ExpertShape, buffers_of, calls_in_a_run, experts_call, timed
from wavefold.bench.rows import ProductRow, Subjects
from wavefold.cli.main import main
from wavefold.ops import native
from wavefold.ops.native import library

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

SHAPE = ExpertShape(hidden=256, inter=128, num_experts=5, topk=2, limit=1.0)
CIRCUMSTANCES = {"hardware", "threads", "torch", "wavefold", "commit", "repeats", "bench", "kernels"}


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavefold.plan.machine.MEMORY_TENSOR", 1 << 20)
    monkeypatch.setattr("wavefold.plan.machine.GEMM_SIZE", 64)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_bound_is_the_longer_of_bytes_and_operations() -> None:
    """By hand: 30 GB at 10 GB/s are 3 s; 100 GFLOP at the faster of 20 and 50 GFLOP/s are 2 s, 200 are 4 s."""
    limits = Limits(memory=10e9, dense={"float32": 20e9, "bfloat16": 50e9})
    assert limits.bound(30e9, 100e9) == (pytest.approx(3.0), "memory")
    assert limits.bound(30e9, 200e9) == (pytest.approx(4.0), "dense")
    assert Limits(10e9, {"float32": 50e9, "bfloat16": 20e9}).bound(30e9, 200e9) == (pytest.approx(4.0), "dense")


def test_limits_are_of_all_dtypes_in_which_an_arithmetic_could_be_computed() -> None:
    for arithmetic in ("exact", "released"):
        limits = LimitsMeter(arithmetic).measure()
        assert set(limits.dense) == {"float32", "bfloat16"} and limits.best_dense == max(limits.dense.values())
        assert limits.memory > 0


def test_later_measurements_of_memory_use_the_fastest_reduction(monkeypatch: pytest.MonkeyPatch) -> None:
    """On each number of threads anew. The tensor has a mebibyte here, which 2 ms read at half a GB/s."""
    called: list[str] = []

    def slow() -> None:
        called.append("slow")
        time.sleep(0.02)

    def fast() -> None:
        called.append("fast")
        time.sleep(0.002)

    monkeypatch.setattr("wavefold.plan.machine.reductions", lambda: [slow, fast])
    meter = MemoryMeter()
    assert 0 < meter.rate() < 2**20 / 0.002 and "slow" in called
    called.clear()
    assert 0 < meter.rate() < 2**20 / 0.002 and set(called) == {"fast"}
    torch.set_num_threads(3)
    assert meter.rate() > 0 and "slow" in called


def test_shares_and_ratios_are_medians_over_turns() -> None:
    row = ProductRow("fp8", 1, 4, bytes=8.0, operations=6.0, distinct_experts=None)
    row.seconds, row.against = [2.0, 4.0, 8.0], [4.0, 4.0, 32.0]
    row.limits = [Limits(8.0, {"float32": 6.0}), Limits(4.0, {"float32": 6.0}), Limits(4.0, {"float32": 1.0})]
    assert row.share == pytest.approx(0.5)  # 1 of 2, 2 of 4, 6 of 8
    assert row.limit == "memory" and row.ratio == pytest.approx(2.0) and row.median_s == 4.0
    gemv = GemvRow("fp4", 1, 100, rates=[10.0, 30.0, 20.0], memory=[40.0, 40.0, 100.0])
    assert gemv.share == pytest.approx(0.25) and gemv.rate == 20.0


@pytest.mark.parametrize(("form", "expected"), [("fp4", 128 * (128 + 8)), ("fp8", 128 * 256 + 2), ("bf16", 65536)])
def test_matrices_are_as_many_bytes_as_they_say_and_finite(form: str, expected: int) -> None:
    """128 x 256: codes of 4, 8 and 16 bits, and a scale for 32 columns or for 128 x 128."""
    assert stored_bytes(form, 128, 256) == expected
    weights = matrices(form, 128, 256, 3 * expected - 1, skip=24)
    assert len(weights) == 3 and len({weight.codes.data_ptr() for weight in weights}) == 3
    for weight in weights:
        size = weight.codes.nbytes + (0 if weight.scales is None else weight.scales.nbytes)
        assert size == expected and weight.codes.data_ptr() % 64 == 24
        values = weight.decode(torch.float64)
        assert values.isfinite().all() and values.std() > 0


def test_experts_are_timed_on_the_model_s_own_equation() -> None:
    """The op's result for random routes against float64: inner rows and the output are rounded by up to 2^-9."""
    experts = Experts(SHAPE, 1, False)
    chosen = experts.routes(7)[0]
    buffers, released = buffers_of(SHAPE, chosen), buffers_of(SHAPE, chosen)
    experts_call(experts.layers[0], buffers, SHAPE.limit, False)()
    experts_call(experts.layers[0], released, SHAPE.limit, True)()
    expected = torch.zeros(7, SHAPE.hidden, dtype=torch.float64)
    for row, ids in enumerate(chosen.tolist()):
        for expert in ids:
            w1, w2, w3 = (weight.decode(torch.float64) for weight in experts.layers[0][expert])
            x = buffers.h[row].double()
            gate, up = (w1 @ x).clamp(max=SHAPE.limit), (w3 @ x).clamp(-SHAPE.limit, SHAPE.limit)
            expected[row] += w2 @ (torch.nn.functional.silu(gate) * up) / SHAPE.topk
    error = (buffers.output.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert error < 6e-3
    assert not torch.equal(buffers.output, released.output)


def test_work_is_counted_by_hand() -> None:
    """Of 7 rows with 2 experts each: 14 pairs, 3 matrices, 2 operations a weight; bytes of the distinct ones."""
    experts = Experts(SHAPE, 2, False)
    num_bytes, operations = experts.amounts(7)
    assert operations == 2 * 3 * 14 * 256 * 128
    assert num_bytes == experts.distinct(7) * 3 * (256 * 128 // 2 + 256 * 128 // 32)
    assert all(len(set(ids)) == 2 for chosen in experts.routes(7) for ids in chosen.tolist())
    assert experts.distinct(1) == 2 and 2 < experts.distinct(7) <= 5
    assert Dense("fp8", 128, 256, 1, False).amounts(3) == (128 * 256 + 2, 2 * 3 * 128 * 256)
    assert calls_in_a_run(10, 1.0, 1.0) == 10
    assert calls_in_a_run(10, 1.0, 5e9) == 4  # 2e10 operations a run
    assert calls_in_a_run(10, 1.0, 1e12) == 1


def test_a_run_goes_on_where_the_last_one_ended() -> None:
    called: list[int] = []
    calls = [lambda i=i: called.append(i) for i in range(3)]
    assert timed(calls, 2, 4) >= 0
    assert called == [2, 0, 1, 2]


def test_subjects_reach_another_process_unchanged() -> None:
    subjects = Subjects(("fp8", "bf16"), ((128, 256),), 1000, SHAPE, 2, "released")
    assert Subjects.from_json(subjects.to_json()) == subjects
    assert Subjects.from_json(Subjects((), (), 1, None, 1, "exact").to_json()).experts is None
    assert subjects.num_bytes == 2 * stored_bytes("fp8", 128, 256) + 2 * 65536 + 10 * SHAPE.bytes_each


def test_gemv_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lines.jsonl"
    sizes = ["--rows", "256", "--columns", "128", "--gib", "0.0002"]
    assert main(["bench", "gemv", *sizes, "--threads", "1", "2", "--repeats", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"kernels {ops.current().isa}" in printed and "of memory" in printed
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["form"], line["threads"]) for line in lines] == [
        (form, threads) for form in ("fp4", "fp8", "bf16") for threads in (1, 2)
    ]
    keys = {"form", "activations", "bytes", "bytes_per_s", "memory_bytes_per_s", "share", "rows", "columns", "skip"}
    assert all(set(line) == CIRCUMSTANCES | keys for line in lines)
    assert all(len(line["bytes_per_s"]) == len(line["memory_bytes_per_s"]) == 2 for line in lines)


def test_gemv_of_blocks_names_its_activations(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    sizes = ["--rows", "64", "--columns", "256", "--gib", "0", "--threads", "1", "--repeats", "1"]
    forms = ["mxfp4", "q8_0", "q2_k", "iq2_xxs", "f16"]
    with ops.using(backend="auto"):
        assert main(["bench", "gemv", "--forms", *forms, "--activations", "int8", *sizes, "--out", str(out)]) == 0
    lines = list(map(json.loads, out.read_text().splitlines()))
    assert [(line["form"], line["activations"]) for line in lines] == [(form, "int8") for form in forms]
    assert [line["bytes"] for line in lines] == [2 * 64 * size for size in (136, 272, 84, 66, 512)]


def test_rows_command_beside_another_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config_file: Path
) -> None:
    out = tmp_path / "lines.jsonl"
    path = next(path for path in library.candidates() if path.is_file())
    command = ["bench", "rows", "--rows", "1", "13", "--shapes", "128x256", "--gib", "0.0001", "--layers", "2",
               "--config", str(config_file), "--experts", "5", "--threads", "1", "--out", str(out)]  # fmt: skip
    assert main([*command, "--repeats", "3", "--against", str(path)]) == 0
    assert "other / this" in capsys.readouterr().out
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["x_rows"] for line in lines] == [1, 13] * 3
    keys = {"product", "x_rows", "bytes", "operations", "distinct_experts", "seconds", "memory_bytes_per_s", "share",
            "dense_operations_per_s", "bound_by", "against", "against_seconds", "ratio", "arithmetic"}  # fmt: skip
    for line in lines:
        assert set(line) == CIRCUMSTANCES | keys
        assert len(line["seconds"]) == len(line["against_seconds"]) == len(line["memory_bytes_per_s"]) == 3
        assert line["bound_by"] in ("memory", "dense") and line["share"] > 0 and line["ratio"] > 0
    assert lines[4]["distinct_experts"] == SMALL.num_experts_per_tok


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL.to_dict()))
    return path


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["gemv", "--forms", "fp5"], "format fp5 is not allowed; expected some of fp4, fp8, bf16"),
        (["gemv", "--columns", "100", "--forms", "fp8"], "expected columns in multiples of 128"),
        (["gemv", "--threads", "0", "--rows", "128", "--gib", "0"], "threads = 0 is not allowed"),
        (["gemv", "--gib", "1e6"], "expected a smaller --gib"),
        (["gemv", "--gib", "-1"], "--gib -1.0 is not allowed; expected 0 (one matrix) or more"),
        (["gemv", "--gib", "nan"], "--gib nan is not allowed"),
        (["gemv", "--skip", "-1", "--gib", "0"], "--skip -1 is not allowed; expected 0 to 63"),
        (["rows", "--rows", "0"], "expected 1 or more of x"),
        (["rows", "--rows", "1000000000", "--gib", "0"], "at most 8192"),
        (["rows", "--shapes", "12"], "--shapes 12 is not allowed; expected ROWSxCOLUMNS"),
        (["rows", "--experts", "5"], "expected 6 or more experts"),
        (["rows", "--layers", "100000"], "expected fewer --layers"),
        (["rows", "--against", "nowhere.so", "--experts", "0", "--gib", "0"], "nowhere.so: no such file"),
        (["rows", "--against", __file__, "--experts", "0", "--shapes", "128x128", "--gib", "0"], "ELF header"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured(command: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *command]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("bench", ["gemv", "rows"])
def test_without_kernels_there_is_nothing_to_measure(
    bench: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavefold.ops.native.available", lambda: False)
    assert main(["bench", bench]) == 2
    assert "no CPU kernels to measure" in capsys.readouterr().err
