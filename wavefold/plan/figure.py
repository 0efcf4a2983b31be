"""The course of a plan from 4K to 1M tokens, drawn: operations of a decoded token, and the KV cache."""

from __future__ import annotations

from pathlib import Path

from wavefold.config import ModelConfig
from wavefold.drawing import save_figure
from wavefold.plan.baseline import gqa8_kv_bytes, v32_decode_flops, v32_kv_bytes
from wavefold.plan.flops import CONVENTIONS
from wavefold.plan.summary import sweep

FORMATS = (".svg", ".png")


def check_path(path: Path) -> None:
    """Raises ValueError unless a figure can be written under this name."""
    if path.suffix not in FORMATS:
        raise ValueError(f"--plot {path}: the name must end in {' or '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--plot {path}: there is no folder {path.absolute().parent}")


def draw(config: ModelConfig, name: str, path: Path) -> None:
    """Write the figure of a model called `name` to an SVG or PNG file."""
    check_path(path)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a figure needs matplotlib; install it with: pip install 'wavefold[train]'") from None
    plans = sweep(config)
    contexts = [one.context for one in plans]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    flops, cache = figure.subplots(1, 2)
    v32 = [v32_decode_flops(n).total(CONVENTIONS[0]) / 1e9 for n in contexts]
    flops.plot(contexts, v32, "o-", color="0.6", label="DeepSeek-V3.2")
    flops.plot(contexts, [one.flops_per_token / 1e9 for one in plans], "o-", color="tab:blue", label=name)
    flops.set(title="a decoded token, equivalent FP8 FLOPs", ylabel="GFLOPs", ylim=(0, None))
    for label, color, line in (
        ("BF16 GQA-8", "0.8", [gqa8_kv_bytes(config, n) for n in contexts]),
        ("DeepSeek-V3.2", "0.6", [v32_kv_bytes(n) for n in contexts]),
        (name, "tab:blue", [one.kv_bytes for one in plans]),
    ):
        cache.plot(contexts, [value / 2**30 for value in line], "o-", color=color, label=label)
    cache.set(title="KV cache of a sequence", ylabel="GiB", yscale="log")
    last = plans[-1]
    for axes, ratio in ((flops, last.flops_ratio_v32), (cache, last.kv_ratio_v32)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, [_short(n) for n in contexts])
        axes.set_xlabel(f"context, tokens ({100 * ratio:.1f} % of V3.2 at {_short(last.context)})")
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def _short(num_tokens: int) -> str:
    return f"{num_tokens >> 20}M" if num_tokens >= 1 << 20 else f"{num_tokens >> 10}K"
