"""Routed experts on a Hopper GPU, in one call: build, check, time; a short table comes last.

    python bench/gpu_experts.py [--model flash|pro] [--out FILE]

Without a GPU it compiles every kernel, prints their registers and shared memory, and ends. With one, a rank's real
share of 8-way expert parallelism:

    right       against float64; the same bits for any number of waves, again, and over two ranks on one chip
    prompt      rate of the whole layer against torch's dense bfloat16 and FP8 products of the same shapes
    decode      bytes of weights a second against what a copy reaches
    waves       one rank with a paced link for rho = 0.25 to 2: the link's blocks release rows no earlier than its rate
                allows. The link is emulated on one chip; this is no multi-GPU speed-up
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavefold import quant
from wavefold.bench.circumstances import append, circumstances
from wavefold.ops.tilelang.build import compile_cubin, generate, has_compiler
from wavefold.ops.tilelang.kernels import fused, linear_1, linear_2
from wavefold.ops.tilelang.launch import launcher, why_not
from wavefold.ops.tilelang.shape import Shape
from wavefold.waves.fused.layer import Rank
from wavefold.waves.schedule import Waves

MODELS = {"flash": (4096, 2048, 256), "pro": (7168, 3072, 384)}
RANKS, SLOTS, REPEATS = 8, 6, 7
RHOS = (0.25, 0.5, 0.8, 1.0, 1.5, 2.0)
WAVES = (1, 2, 4, 8, 16)


def resources() -> list[dict[str, Any]]:
    """Print and return the resources of every kernel for both models; needs nvcc, no GPU."""
    lines = []
    print(f"{'kernel':22} {'rows':>4} {'registers':>9} {'spilled':>7} {'shared':>8} {'wgmma':>6} {'cp.async':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for model, (hidden, inner, _) in MODELS.items():
            for rows, stages in ((64, 3), (16, 6)):
                shape = Shape(hidden, inner, rows, SLOTS, stages=stages)
                kernels = {
                    "linear_1": linear_1(shape),
                    "linear_2": linear_2(shape),
                    "fused": fused(shape, RANKS, 8, 132),
                }
                for name, kernel in kernels.items():
                    took = compile_cubin(generate(kernel), Path(folder), name)
                    print(f"{model + ' ' + name:22} {rows:4} {took.registers:9} {took.spilled:7} {took.shared:8} "
                          f"{took.wgmma:6} {took.async_copies:8}", flush=True)  # fmt: skip
                    lines.append({"model": model, "kernel": name, "rows": rows} | vars(took))
    return lines


def seconds(run: Callable[[], object]) -> tuple[float, float, float]:
    """Median, least and most of REPEATS runs, after two."""
    times = []
    for turn in range(REPEATS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if turn > 1:
            times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times), min(times), max(times)


class Share:
    """One rank's experts of a model, its tokens and the tokens that other ranks would send it."""

    def __init__(self, model: str, tokens: int, rows: int, device: torch.device):
        hidden, inner, experts = MODELS[model]
        self.device, self.tokens, self.shape = (
            device,
            tokens,
            Shape(hidden, inner, rows, SLOTS, stages=3 if rows > 16 else 6),
        )
        self.num_experts = experts // RANKS
        g = torch.Generator().manual_seed(0)

        def fp4(out: int, into: int) -> tuple[Tensor, Tensor]:
            return quant.fp4_quant(torch.randn(out, into, generator=g) / into**0.5)

        self.experts = [(fp4(inner, hidden), fp4(hidden, inner), fp4(inner, hidden)) for _ in range(2)]
        self.experts *= self.num_experts // 2
        self.x = torch.randn(tokens, hidden, generator=g).bfloat16().to(device)
        self.ids = torch.rand(tokens, self.num_experts, generator=g).topk(SLOTS).indices
        self.routes = torch.rand(tokens, SLOTS, generator=g)

    def run(self, waves: int, picoseconds: int = 0) -> tuple[Callable[[], None], Callable[[], Tensor]]:
        """A launch and its result: as many pairs as come to a rank of eight that all have so many tokens."""
        rank = Rank(0, self.shape, Waves(self.num_experts, 1, waves, min(2, waves)), self.tokens, device=self.device)
        weights = rank.weights(self.experts)
        launch = launcher(self.shape, self.device)
        holder: dict[str, Any] = {}

        def prepare() -> None:
            holder.update(rank.prepare(self.x, [self.ids], [self.routes], weights, [rank.pointers()], picoseconds))

        def once() -> None:
            rank.reset()  # the same run again
            launch(holder)

        prepare()
        return once, lambda: holder["out"]


def exact(share: Share, count: int) -> Tensor:
    """The first `count` tokens' results in float64, activations through FP8 as the kernel takes them."""
    out = torch.zeros(count, share.shape.hidden, dtype=torch.float64)
    decoded = [[quant.dequantize(w, s, torch.float32).double() for w, s in one] for one in share.experts[:2]]
    x = quant.fp8_sim(share.x[:count].cpu(), 128).double()
    for i in range(count):
        for slot in range(SLOTS):
            w1, w2, w3 = decoded[int(share.ids[i, slot]) % 2]
            gate = (w1 @ x[i]).clamp(max=share.shape.limit)
            up = (w3 @ x[i]).clamp(-share.shape.limit, share.shape.limit)
            inner = torch.nn.functional.silu(gate) * up * share.routes[i, slot].double()
            out[i] += w2 @ quant.fp8_sim(inner.bfloat16()[None], 128)[0].double()
    return out


def over_two_ranks(share: Share) -> bool:
    """True if two ranks on one chip, each with a stream and half of the tokens and experts, give the bits of one."""
    once, out = share.run(1)
    once()
    expected = out().clone()
    waves = Waves(share.num_experts, 2, 4, 2)
    ranks = [Rank(number, share.shape, waves, share.tokens, device=share.device) for number in range(2)]
    pointers = [rank.pointers() for rank in ranks]
    x, ids, routes = (tensor.chunk(2) for tensor in (share.x, share.ids, share.routes))
    launch, streams = launcher(share.shape, share.device, 2), [torch.cuda.Stream() for _ in ranks]
    launches = []
    for number, rank in enumerate(ranks):
        weights = rank.weights([share.experts[e] for e in waves.experts_of(number)])
        launches.append(rank.prepare(x[number].clone(), ids, routes, weights, pointers))
    torch.cuda.synchronize()
    for stream, arguments in zip(streams, launches, strict=True):
        with torch.cuda.stream(stream):
            launch(arguments)
    torch.cuda.synchronize()
    return torch.equal(torch.cat([arguments["out"] for arguments in launches]), expected)  # type: ignore[list-item]


def with_gpu(model: str, device: torch.device) -> list[dict[str, Any]]:
    hidden, inner, _ = MODELS[model]
    share = Share(model, 8192, 64, device)
    line: dict[str, Any] = {"model": model, "device": torch.cuda.get_device_name(device)}
    results = []
    for waves in (1, 4, 16):
        once, out = share.run(waves)
        for _ in range(2):
            once()
            results.append(out().clone())
    line["same_bits"] = all(torch.equal(results[0], other) for other in results)
    line["two_ranks"] = over_two_ranks(Share(model, 512, 64, device))
    expected = exact(share, 16)
    line["relative_error"] = float((results[0][:16].cpu().double() - expected).norm() / expected.norm())

    operations = 6 * share.tokens * SLOTS * hidden * inner
    once, _ = share.run(1)
    whole, least, most = seconds(once)
    rows = torch.randn(share.tokens * SLOTS // share.num_experts, hidden, device=device, dtype=torch.bfloat16)
    dense = torch.randn(2 * inner, hidden, device=device, dtype=torch.bfloat16)
    bf16 = 2 * rows.shape[0] * dense.numel() / seconds(lambda: rows @ dense.T)[0]
    narrow, wide = rows.to(torch.float8_e4m3fn), dense.to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    fp8 = 2 * rows.shape[0] * dense.numel() / seconds(
        lambda: torch._scaled_mm(narrow, wide.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    )[0]  # fmt: skip
    line |= {"prompt_s": [whole, least, most], "prompt_flops": operations / whole, "of_bf16": operations / whole /
    bf16,
              "of_fp8": operations / whole / fp8}  # fmt: skip

    few = Share(model, 4, 16, device)
    once, _ = few.run(1)
    step = seconds(once)[0]
    used = len(few.ids.unique())
    room = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    copy = 2 * room.numel() / seconds(lambda: room.clone())[0]
    line |= {"decode_s": step, "decode_of_copy": used * 3 * hidden * inner * 17 / 32 / step / copy}

    travels = len(share.x) * (hidden + hidden // 128) + share.tokens * SLOTS * 2 * hidden
    line["waves"] = []
    for rho in RHOS:
        picoseconds = round(rho * whole * 1e12 / travels)
        times = {waves: seconds(share.run(waves, picoseconds)[0])[0] for waves in WAVES}
        best = min(times, key=times.__getitem__)
        bound = max(1.0, rho) * whole
        line["waves"].append({"rho": rho, "seconds": times, "best": best, "of_bound": bound / times[best],
                               "times_one_wave": times[1] / times[best]})  # fmt: skip
    return [line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="flash")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_experts.jsonl"))
    args = parser.parse_args()
    if has_compiler():
        append(args.out, [line | circumstances(1) for line in resources()])
    else:
        print("nvcc is not here: no kernel was compiled")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if reason := why_not(device):
        print(f"nothing was timed: {reason}")
        return
    for figures in with_gpu(args.model, device):
        append(args.out, [figures | circumstances(1)])
        print(f"\n{figures['device']}, {args.model}: error {figures['relative_error']:.1e}, "
              f"{'the same bits' if figures['same_bits'] else 'OTHER BITS'} for all waves, "
              f"{'and' if figures['two_ranks'] else 'NOT'} for two ranks on one chip\n"
              f"prompt {figures['prompt_flops'] / 1e12:.0f} TFLOP/s: {figures['of_bf16']:.2f} of bfloat16, "
              f"{figures['of_fp8']:.2f} of FP8\ndecode {figures['decode_of_copy']:.0%} of a copy's rate")  # fmt: skip
        for line in figures["waves"]:
            print(f"paced link, rho {line['rho']:.2f}: {line['best']} waves, {line['of_bound']:.0%} of the bound, "
                  f"{line['times_one_wave']:.2f} times one wave")  # fmt: skip


if __name__ == "__main__":
    main()
