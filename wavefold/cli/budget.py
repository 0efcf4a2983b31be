"""A budget of memory on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wavefold.system.sizes import gib

if TYPE_CHECKING:
    from rich.console import Console

    from wavefold.engine.budget import Budget


def print_budget(console: Console, budget: Budget) -> None:
    """Prints what lies where."""
    from rich.table import Table

    table = Table("memory", "GiB", "", title=f"{gib(budget.total)} in all")
    for name, num_bytes, remark in budget.lines():
        table.add_row(name, f"{num_bytes / 2**30:.2f}", remark)
    console.print(table)
