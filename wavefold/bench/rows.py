"""Products of few and of many rows of x: time beside the least that memory and dense arithmetic allow.

In each turn the machine's rates are measured, then every product is run once, by these kernels and, where another
build of them is given, by that one, in a process of its own. So other load on the machine meets all of them.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wavefold.bench.limits import Bounded, Limits, LimitsMeter
from wavefold.bench.matrices import stored_bytes
from wavefold.bench.products import Dense, Experts, ExpertShape, Subject
from wavefold.bench.worker import Worker
from wavefold.ops.threads import use_threads
from wavefold.system import check_memory


@dataclass(frozen=True)
class Subjects:
    """The products to time, as plain values: another process makes the same ones of them."""

    forms: tuple[str, ...]
    """Formats of dense matrices: fp8, bf16."""
    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of dense matrices."""
    dense_bytes: int
    """Bytes of the matrices of a format and shape."""
    experts: ExpertShape | None
    num_layers: int
    arithmetic: str

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights."""
        dense = sum(
            max(self.dense_bytes, 2 * stored_bytes(form, *shape)) for form in self.forms for shape in self.shapes
        )
        return dense + (self.experts.num_experts * self.experts.bytes_each * self.num_layers if self.experts else 0)

    def create(self) -> list[Subject]:
        """Returns the products with their weights. Raises ValueError where memory does not hold them."""
        check_memory(
            self.num_bytes, "the weights of bench rows", "fewer --layers, --experts or --shapes, or less --gib"
        )
        released = self.arithmetic == "released"
        subjects: list[Subject] = [
            Dense(form, *shape, self.dense_bytes, released) for shape in self.shapes for form in self.forms
        ]
        if self.experts:
            subjects.append(Experts(self.experts, self.num_layers, released))
        return subjects

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Subjects:
        """Returns the subjects of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        values["forms"], values["shapes"] = tuple(values["forms"]), tuple(map(tuple, values["shapes"]))
        values["experts"] = ExpertShape(**values["experts"]) if values["experts"] else None
        return cls(**values)


@dataclass
class ProductRow(Bounded):
    """A product with `x_rows` rows of x on `threads` threads: its amounts, and in each turn its seconds and limits."""

    product: str
    threads: int
    x_rows: int
    bytes: float
    operations: float
    distinct_experts: float | None
    seconds: list[float] = field(default_factory=list)
    against: list[float] = field(default_factory=list)
    """Seconds of the other build."""
    limits: list[Limits] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """How many times as fast these kernels are as the other build: the median over turns, or None."""
        if not self.against:
            return None
        return statistics.median(other / ours for other, ours in zip(self.against, self.seconds, strict=True))


def measure(
    subjects: Subjects, rows: Sequence[int], threads: Sequence[int], repeats: int, against: Path | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> list[ProductRow]:  # fmt: skip
    """Returns a row for each number of threads, product and number of rows.

    `against` is a library of the kernels that speaks the same version of their interface. Raises ValueError for
    numbers that cannot be, for weights without room in memory, and for a library that cannot be loaded.
    """
    if min(rows, default=0) < 1:
        raise ValueError(f"rows {list(rows)} are not allowed; expected 1 or more of x")
    report("drawing weights")
    products = subjects.create()
    if against is None:
        return _measure(subjects, products, rows, threads, repeats, None, report)
    report(f"loading {against}")
    with other_build(against, subjects) as worker:
        return _measure(subjects, products, rows, threads, repeats, worker, report)


def _measure(
    subjects: Subjects, products: Sequence[Subject], rows: Sequence[int], threads: Sequence[int], repeats: int,
    worker: Worker | None, report: Callable[[str], None],
) -> list[ProductRow]:  # fmt: skip
    table: list[ProductRow] = []
    meter = LimitsMeter(subjects.arithmetic)
    for count in threads:
        use_threads(count)
        cases = [(number, x_rows) for number in range(len(products)) for x_rows in rows]
        block = [row_of(products[number], count, x_rows) for number, x_rows in cases]
        for turn in range(repeats + 1):  # the first one does not count: pages, clocks and threads warm up
            limits = meter.measure() if turn else None
            for row, (number, x_rows) in zip(block, cases, strict=True):
                report(f"{row.product}, {x_rows} rows, {count} threads, turn {turn} of {repeats}")
                request = {"product": number, "x_rows": x_rows, "threads": count}
                before = worker.ask(request) if worker and turn % 2 else None
                seconds = products[number].seconds(x_rows)
                if limits is None:
                    continue
                row.seconds.append(seconds)
                row.limits.append(limits)
                if worker:
                    row.against.append((before or worker.ask(request))["seconds"])
        table += block
    return table


def row_of(product: Subject, threads: int, x_rows: int) -> ProductRow:
    distinct = product.distinct(x_rows) if isinstance(product, Experts) else None
    return ProductRow(product.name, threads, x_rows, *product.amounts(x_rows), distinct)


def other_build(library: Path, subjects: Subjects) -> Worker:
    """Returns a process that times the same products with another build of the kernels."""
    if not library.is_file():
        raise ValueError(f"--against {library}: no such file; expected a built library of the kernels")
    command = [sys.executable, "-m", "wavefold.bench.rows_worker", subjects.to_json()]
    return Worker(f"--against {library}", command, {"WAVEFOLD_NATIVE": str(library.resolve())})
