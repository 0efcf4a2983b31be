"""Tunings: their syntax and limits, who wins, and which of their fields reach a bit of a result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wavefold import ops, quant
from wavefold.ops import native
from wavefold.ops.native.library import library
from wavefold.ops.tuning import HINTS, TWO_WAYS, Tuning, default, usual
from wavefold.quant import Weight

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

FORMS = ("fp4", "fp8", "bf16")


def product(form: str, x_rows: int, tuning: Tuning, isa: str | None = None, batch_invariant: bool = False) -> Tensor:
    """x Wᵀ in float32 for a fixed x [x_rows, 640] and W [200, 640]."""
    x, weight = operands(form, x_rows)
    with ops.using(isa=isa, batch_invariant=batch_invariant, backend="auto", tuning=tuning):
        return native.linear(x, weight, torch.float32)


def operands(form: str, x_rows: int) -> tuple[Tensor, Weight]:
    generator = torch.Generator().manual_seed(5)
    w = torch.randn(200, 640, generator=generator)
    x = torch.randn(64, 640, generator=generator) * torch.exp(3 * torch.randn(640, generator=generator))
    x = x[:x_rows].bfloat16()  # of sizes that make float32 sums depend on their order
    if form == "bf16":
        return x, Weight.of(w.bfloat16(), None)
    return x, Weight.of(*(quant.quantize_fp4(w) if form == "fp4" else quant.quantize_fp8(w)))


def test_what_may_be_written() -> None:
    base = Tuning("l2", 8192, 24, 0, "none")
    assert Tuning.parse("hint=stream, ahead=0", base) == Tuning("stream", 0, 24, 0, "none")
    assert Tuning.parse("few_rows=256,float_rows=1024", base) == Tuning("l2", 8192, 256, 1024, "none")
    assert Tuning.parse("usual", base) == base and Tuning.parse("usual") == usual()
    assert Tuning.parse(str(base), usual()) == base


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hint=l9", "hint = 'l9' is not allowed; expected one of none, stream, l1, l2, l3"),
        ("plain_hint=8", "plain_hint = '8' is not allowed; expected one of none, stream, l1, l2, l3"),
        ("ahead=1048577", "ahead = 1048577 is not allowed; expected 0 to 1048576"),
        ("ahead=-1", "ahead = -1 is not allowed; expected 0 to 1048576"),
        ("ahead=far", "ahead = 'far' is not allowed; expected 0 to 1048576"),
        ("few_rows=0", "few_rows = 0 is not allowed; expected 1 to 256"),
        ("few_rows=257", "few_rows = 257 is not allowed; expected 1 to 256"),
        ("float_rows=1025", "float_rows = 1025 is not allowed; expected 0 to 1024"),
        ("behind=3", "'behind=3' is not allowed; expected usual, or FIELD=VALUE,... with fields of hint, ahead"),
        ("hint=l1,", "'' is not allowed"),
        ("l1", "'l1' is not allowed"),
    ],
)
def test_what_may_not(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Tuning.parse(text)
    assert message in str(error.value)


def test_the_library_refuses_what_python_does() -> None:
    """The limits are the library's: each is taken, and one beyond it is refused, on both sides."""
    for field, (least, most) in {"ahead": (0, 1 << 20), "few_rows": (1, 256), "float_rows": (0, 1024)}.items():
        for value in (least, most):
            product("fp4", 1, usual()._replace(**{field: value}))
        for value in (least - 1, most + 1):
            wrong = usual()._replace(**{field: value})
            with pytest.raises(ValueError, match=f"{field} = {value}"):
                ops.Runtime(tuning=wrong)
            with pytest.raises(ValueError, match="tuning is out of range"):
                native.library.Handle(1, None, False, False, wrong.numbers())
    with pytest.raises(ValueError, match="out of range"):
        native.library.Handle(1, None, False, False, (len(HINTS), 0, 1, 0))


def test_who_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime's own, then WAVEFOLD_TUNING, then the usual one."""
    assert ops.Runtime().tuning == usual() and "tuning" not in repr(ops.Runtime())
    monkeypatch.setenv("WAVEFOLD_TUNING", "ahead=64")
    assert ops.Runtime().tuning == default() == usual()._replace(ahead=64) and "ahead=64" in repr(ops.Runtime())
    own = Tuning("none", 0, 1, 0, "none")
    assert ops.Runtime(tuning=own).tuning == own
    assert ops.Runtime(tuning=own).but(threads=1).tuning == own
    assert ops.Runtime(tuning=own).but(tuning=usual()).tuning == usual()
    monkeypatch.setenv("WAVEFOLD_TUNING", "ahead=none")
    with pytest.raises(ValueError, match="WAVEFOLD_TUNING = ahead=none: tuning ahead = 'none' is not allowed"):
        ops.Runtime().handle()
    monkeypatch.delenv("WAVEFOLD_TUNING")
    assert ops.Runtime().tuning == usual()


def test_handles_are_not_shared() -> None:
    one, other = ops.Runtime(threads=1), ops.Runtime(threads=1, tuning=usual()._replace(ahead=0))
    assert one.handle() is one.handle() is not other.handle()


@pytest.mark.parametrize("form", FORMS)
def test_hints_change_no_bit(isa: str, form: str) -> None:
    for x_rows in (1, 5, 40):
        expected = product(form, x_rows, usual(isa), isa)
        for hint in HINTS:
            for ahead in (0, 100, 1 << 20):
                assert torch.equal(
                    product(form, x_rows, usual(isa)._replace(hint=hint, ahead=ahead, plain_hint=hint), isa), expected
                )


@pytest.mark.parametrize("form", FORMS)
def test_few_rows_are_summed_as_one_row(isa: str, form: str) -> None:
    """Up to `few_rows` rows have the bits of a row alone; beyond, only float32's accuracy is promised."""
    tuning = usual(isa)._replace(float_rows=0)
    x, weight = operands(form, 40)
    alone = torch.cat([product(form, row + 1, tuning, isa)[row:] for row in range(8)])
    assert torch.equal(product(form, 40, tuning._replace(few_rows=40), isa)[:8], alone)
    for few_rows in (1, 39, 40, 256):
        assert torch.equal(product(form, 40, tuning._replace(few_rows=few_rows), isa, True)[:8], alone)
        y = product(form, 40, tuning._replace(few_rows=few_rows), isa)
        w = (weight.codes if weight.scales is None else quant.dequantize(weight.codes, weight.scales)).double()
        size = x.double().abs() @ w.abs().T  # 640 terms: as in test_linear.py
        assert ((y - x.double() @ w.T).abs() <= 2e-6 * size).all()


@pytest.mark.skipif(TWO_WAYS[0] not in ops.isas(), reason="the processor has no products of bfloat16")
@pytest.mark.parametrize("form", FORMS)
def test_float_rows_are_the_other_kernels(form: str) -> None:
    """From `float_rows` on a product has the bits of the float32 kernels; below, those of the bfloat16 ones."""
    wide, narrow = usual("avx512"), usual(TWO_WAYS[0])._replace(float_rows=0)
    for x_rows in (1, 3, 4, 8, 40):
        in_float, in_bf16 = product(form, x_rows, wide, "avx512"), product(form, x_rows, narrow)
        assert not torch.equal(in_float, in_bf16)
        for float_rows in (0, 1, 4, 8):
            expected = in_float if 0 < float_rows <= x_rows else in_bf16
            assert torch.equal(product(form, x_rows, narrow._replace(float_rows=float_rows)), expected)


@pytest.mark.skipif(TWO_WAYS[0] not in ops.isas(), reason="the processor has no products of bfloat16")
def test_batch_invariant_runtimes_take_one_kind() -> None:
    narrow = usual(TWO_WAYS[0])
    for float_rows, isa in ((0, TWO_WAYS[0]), (4, TWO_WAYS[0]), (1, "avx512")):
        expected = product("fp8", 40, usual(isa)._replace(float_rows=0), isa, batch_invariant=True)
        assert torch.equal(product("fp8", 40, narrow._replace(float_rows=float_rows), None, True), expected)


def test_the_structure_is_the_librarys() -> None:
    assert library() is not None
    assert tuple(name for name, _ in native.library.TuningStruct._fields_) == Tuning._fields
