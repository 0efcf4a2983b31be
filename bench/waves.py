"""Experts in waves between two processes: is communication hidden behind compute, and does the plan say so beforehand?

    sudo python bench/waves.py              two network namespaces, a link paced by tc tbf (`make bench-waves`)
    python bench/waves.py --loopback        without root: loopback, which is not paced; the same work

Experts of Flash's shape (4096 x 2048, FP4), as many tokens as make one layer's computing take seconds on a thread. In
each of the two ranks, a process pinned to a core:

    T_K       computing alone
    T_comm    all messages, no computing
    naive     one wave: dispatch, then compute, then combine
    waves     2 to 32

for links whose rate makes rho = T_comm / T_K as asked. The simulator is calibrated on other runs: the cost of a pass
and of a wave over an unpaced link (1 and 32 waves), the share of its rate that a paced link gives, and how it slows
computing at another rate. It chooses the number of waves before any is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NUM_TOKENS, NUM_EXPERTS, SLOTS, HIDDEN, INNER = 1280, 64, 6, 4096, 2048
COUNTS = (1, 2, 4, 8, 16, 32)
RHOS = (0.5, 0.8, 1.0, 1.6)
CALIBRATION_RHO = 0.65
WIRE, BACK = "fp8", "bf16"
SAMPLE_S = 0.01


# -- a rank


def rank_main(rank: int, address: str, port: int, interface: str, tokens: int) -> None:
    """Answer requests, one JSON line each, until the input ends."""
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    os.sched_setaffinity(0, {rank % os.cpu_count()})  # type: ignore[operator]
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=2)
    layer = Layer(rank, tokens)
    print(json.dumps({"ready": True, "bytes": layer.bytes}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        dist.barrier()
        print(json.dumps(layer.run(interface=interface, **request)), flush=True)


class Layer:
    """One rank's tokens and experts."""

    def __init__(self, rank: int, num_tokens: int):
        import torch
        import torch.distributed as dist

        from wavefold import ops, quant
        from wavefold.ops import Arithmetic
        from wavefold.waves import wire
        from wavefold.waves.routes import Routes
        from wavefold.waves.schedule import Waves
        from wavefold.waves.transport import TorchTransport

        self.transport, self.rank = TorchTransport(), rank
        g = torch.Generator().manual_seed(rank)
        self.h = torch.randn(num_tokens, HIDDEN, generator=g).bfloat16()
        self.weights = torch.rand(num_tokens, SLOTS, generator=g)
        self.ids = torch.rand(num_tokens, NUM_EXPERTS, generator=g).topk(SLOTS).indices
        shapes = (INNER, HIDDEN), (HIDDEN, INNER), (INNER, HIDDEN)
        self.stored = {
            expert: [quant.quantize_fp4(torch.randn(*shape, generator=g) / 64) for shape in shapes]
            for expert in Waves(NUM_EXPERTS, 2).experts_of(rank)
        }
        self.experts = {expert: [codes for codes, _ in parts] for expert, parts in self.stored.items()}
        exact = Arithmetic("exact", torch.bfloat16)

        def compute(expert, rows, weights, routes):  # type: ignore[no-untyped-def]
            parts = self.stored[expert]
            return ops.expert(rows, *(quant.Weight.of(*pair) for pair in parts), routes, 10.0, exact)  # type: ignore[call-arg, arg-type]

        self.compute = compute
        routes, other = Routes(Waves(NUM_EXPERTS, 2), self.ids), 1 - rank
        pairs = routes.pairs[0][other].stop - routes.pairs[0][other].start
        self.bytes = {
            "dispatch": len(routes.rows[0][other]) * wire.row_bytes(WIRE, HIDDEN),  # type: ignore[arg-type]
            "combine": pairs * wire.row_bytes(BACK, HIDDEN),  # type: ignore[arg-type]
        }

        both: list[dict[str, int]] = [{}, {}]
        dist.all_gather_object(both, self.bytes)
        self.other_bytes = both[other]

    def run(self, mode: str, waves: int, interface: str) -> dict[str, object]:
        """One pass, and its seconds: "waves", "compute" (no messages), "comm" (no computing), "both" (side by side)."""
        if mode == "waves":
            return self._pass(waves, interface)
        import torch.distributed as dist

        began = time.perf_counter()
        if mode == "compute":
            self._compute_alone()
            return {"seconds": time.perf_counter() - began}
        messages = self._post_all()
        if mode == "both":
            self._compute_alone()
        computed = time.perf_counter() - began
        for message in messages:
            message.wait()
        seconds = time.perf_counter() - began
        dist.barrier()
        return {"seconds": seconds, "computed": computed}

    def _pass(self, num_waves: int, interface: str) -> dict[str, object]:
        import torch.distributed as dist

        from wavefold.waves.exchange import Settings
        from wavefold.waves.experts import Pass
        from wavefold.waves.schedule import Waves
        from wavefold.waves.transport import run_alone

        one = Pass(self.transport, Settings(Waves(NUM_EXPERTS, 2, num_waves), WIRE, BACK), self.compute)  # type: ignore[arg-type]
        dist.barrier()
        with sent_bytes(interface) as samples:
            began = time.perf_counter()
            out = run_alone(one.forward(self.h, self.weights, self.ids, self.experts))
            seconds = time.perf_counter() - began
        spans = [[wave, start - began, end - began] for wave, start, end in one.computed]
        sums = float(out.double().square().sum())
        return {"seconds": seconds, "spans": spans, "sent": [[at - began, n] for at, n in samples], "sum": sums}

    def _compute_alone(self) -> None:
        """This rank's share of the work, on its own rows: as many pairs as come to it, but for chance."""
        import torch

        per_expert = max(1, len(self.h) * SLOTS * 2 // NUM_EXPERTS)
        rows, routes = self.h[:per_expert], torch.ones(per_expert, 1)
        for expert in self.experts:
            self.compute(expert, rows.clone(), None, routes)

    def _post_all(self):  # type: ignore[no-untyped-def]
        import torch

        messages = []
        for tag, kind in enumerate(self.bytes):
            room, message = (torch.zeros(size[kind], dtype=torch.uint8) for size in (self.other_bytes, self.bytes))
            messages.append(self.transport.receive(1 - self.rank, room, 1000 + tag))
            messages.append(self.transport.send(1 - self.rank, message, 1000 + tag))
        return messages


@contextmanager
def sent_bytes(interface: str) -> Iterator[list[tuple[float, int]]]:
    """(time, bytes that the interface has sent) every few milliseconds while the block runs."""
    counter = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
    samples: list[tuple[float, int]] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.is_set():
            samples.append((time.perf_counter(), int(counter.read_text())))
            time.sleep(SAMPLE_S)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


# -- the driver


class Pair:
    """Two ranks, and the link between them."""

    def __init__(self, loopback: bool, tokens: int):
        from link import PacedLink

        self.link = None if loopback else PacedLink()
        self.interfaces = ["lo", "lo"] if self.link is None else self.link.interfaces
        self.ranks = []
        for rank in range(2):
            inside = [] if self.link is None else self.link.inside(rank)
            address = "127.0.0.1" if self.link is None else self.link.addresses[0]
            command = [*inside, sys.executable, __file__, "--rank", str(rank), "--address", address,
                       "--interface", self.interfaces[rank], "--tokens", str(tokens)]  # fmt: skip
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
            self.ranks.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )
        ready = [json.loads(rank.stdout.readline()) for rank in self.ranks]  # type: ignore[union-attr]
        self.bytes = {kind: max(reply["bytes"][kind] for reply in ready) for kind in ready[0]["bytes"]}

    def pace(self, bytes_per_s: float) -> None:
        """Both directions, from now on (0: as fast as it goes)."""
        assert self.link is not None
        self.link.pace(bytes_per_s)

    def run(self, mode: str, waves: int = 1) -> list[dict]:
        """A pass of both ranks."""
        for rank in self.ranks:
            rank.stdin.write(json.dumps({"mode": mode, "waves": waves}) + "\n")  # type: ignore[union-attr]
            rank.stdin.flush()  # type: ignore[union-attr]
        return [json.loads(rank.stdout.readline()) for rank in self.ranks]  # type: ignore[union-attr]

    def seconds(self, repeats: int, mode: str, waves: int = 1, key: str = "seconds") -> list[float]:
        """Seconds of the slower rank, after a pass that does not count."""
        self.run(mode, waves)
        return [max(reply[key] for reply in self.run(mode, waves)) for _ in range(repeats)]

    def close(self) -> None:
        for rank in self.ranks:
            rank.stdin.close()  # type: ignore[union-attr]
            rank.wait(30)
        if self.link is not None:
            self.link.close()


def median(values: list[float]) -> float:
    return statistics.median(values)


def study(pair: Pair, rhos: list[float], repeats: int) -> list[dict]:
    """All figures of all links. Each prediction is made before its measurement."""
    from wavefold.waves.schedule import Waves
    from wavefold.waves.simulate import Link, best_waves, even_load, simulate

    num_bytes = sum(pair.bytes.values())
    pair.pace(0)
    alone = median(pair.seconds(repeats, "compute"))
    fast = {waves: median(pair.seconds(repeats, "waves", waves)) for waves in (1, 32)}
    overhead = max(0.0, (fast[32] - fast[1]) / 31)
    nominal = num_bytes / (CALIBRATION_RHO * alone)
    pair.pace(nominal)
    efficiency = num_bytes / median(pair.seconds(repeats, "comm")) / nominal
    slowed = median(pair.seconds(repeats, "both", key="computed"))
    busy = min(1.0, CALIBRATION_RHO)
    contention = max(0.0, (slowed / alone - 1) / busy)
    print(f"T_K {alone:.2f} s; a pass over an unpaced link {fast[1]:.2f} s, in 32 waves {fast[32]:.2f} s")
    print(
        f"a paced link gives {efficiency:.1%} of its rate, and slows computing by {slowed / alone - 1:.1%}", flush=True
    )
    lines = []
    for rho in rhos:
        rate = num_bytes / (rho * alone)
        link = Link(rate * efficiency, contention=contention)
        load = fast[1], pair.bytes["dispatch"], pair.bytes["combine"]
        chosen, _ = best_waves(Waves(NUM_EXPERTS, 2), *load, link, overhead, COUNTS)
        predicted = {}
        for num in COUNTS:
            waves = Waves(NUM_EXPERTS, 2, num)
            predicted[num] = simulate(waves, even_load(waves, *load, overhead), link).seconds
        pair.pace(rate)
        t_k, t_comm = pair.seconds(repeats, "compute"), pair.seconds(repeats, "comm")
        beside = pair.seconds(repeats, "both", key="computed")
        measured = {num: pair.seconds(repeats, "waves", num) for num in COUNTS}
        line = {
            "rho": rho, "link_bytes_per_s": rate, "bytes": pair.bytes, "T_K": t_k, "T_comm": t_comm,
            "compute_beside_link": beside, "chosen": chosen.num_waves, "predicted": predicted, "measured": measured,
            "overhead": overhead, "efficiency": efficiency, "contention": contention, "fast": fast,
        }  # fmt: skip
        lines.append(line)
        show(line)
    return lines


def show(line: dict) -> None:
    """One link's table."""
    t_k, t_comm = median(line["T_K"]), median(line["T_comm"])
    ratio = t_comm / t_k
    bound = (1 + ratio) / max(1, ratio)
    times = {num: median(seconds) for num, seconds in line["measured"].items()}
    naive, best = times[1], min(times.values())
    planned = times[line["chosen"]]
    rate, beside = line["link_bytes_per_s"] * 8 / 1e6, median(line["compute_beside_link"])
    print(f"\nrho {line['rho']}, {rate:.0f} Mbit/s: T_K {t_k:.2f} s, T_comm {t_comm:.2f} s, so rho {ratio:.2f}; "
          f"computing beside the link {beside:.2f} s")  # fmt: skip
    for num, seconds in line["measured"].items():
        plan = line["predicted"][num]
        print(f"  {num:2} waves  {times[num]:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})   "
              f"plan {plan:.2f} ({plan / times[num] - 1:+.1%})   {naive / times[num]:.2f} times naive")  # fmt: skip
    print(f"  the plan's {line['chosen']} waves: {naive / planned:.2f} times naive, {naive / planned / bound:.1%} of "
          f"the bound {bound:.2f}; {(t_k + t_comm) / planned / bound:.1%} of it counted from T_K + T_comm")  # fmt: skip
    print(f"  {planned / best - 1:.1%} slower than the best of all", flush=True)


def draw(pair: Pair, line: dict, path: Path) -> None:
    """Draw a plan's timeline, the computing of a measured pass, and the bytes that its links carried."""
    from matplotlib.figure import Figure

    from wavefold.drawing import save_figure
    from wavefold.waves import timeline
    from wavefold.waves.schedule import Waves
    from wavefold.waves.simulate import Link, even_load, simulate
    from wavefold.waves.timeline import Span

    waves = Waves(NUM_EXPERTS, 2, line["chosen"])
    link = Link(line["link_bytes_per_s"] * line["efficiency"], contention=line["contention"])
    load = even_load(waves, line["fast"][1], pair.bytes["dispatch"], pair.bytes["combine"], line["overhead"])
    planned = simulate(waves, load, link).spans
    pair.pace(line["link_bytes_per_s"])
    for num in (1, line["chosen"]):
        pair.run("waves", num)
    runs = {num: pair.run("waves", num) for num in (1, line["chosen"])}
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots(5, sharex=True, height_ratios=(2, 1, 1, 1, 1))
    timeline.draw_on(axes[0], f"plan: {line['chosen']} waves, rho {line['rho']}", planned)
    for i, (num, ranks) in enumerate(runs.items()):
        spans = [Span(rank, "compute", *span) for rank, reply in enumerate(ranks) for span in reply["spans"]]
        timeline.draw_on(
            axes[1 + 2 * i], f"measured: {num} wave{'s' if num > 1 else ''}, computing", spans, links=False
        )
        for rank, reply in enumerate(ranks):
            at = [(a[0] + b[0]) / 2 for a, b in zip(reply["sent"], reply["sent"][10:], strict=False)]
            rates = [(b[1] - a[1]) / (b[0] - a[0]) / line["link_bytes_per_s"]
                     for a, b in zip(reply["sent"], reply["sent"][10:], strict=False)]  # fmt: skip
            axes[2 + 2 * i].plot(at, rates, linewidth=1, label=f"rank {rank} sends")
        axes[2 + 2 * i].set_ylabel("of the link", fontsize=8)
        axes[2 + 2 * i].legend(fontsize=7, loc="lower right")
    axes[-1].set_xlabel("seconds")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loopback", action="store_true", help="no namespaces, no pacing, no root")
    parser.add_argument("--rho", type=float, nargs="+", default=list(RHOS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="of each rank (1280)")
    parser.add_argument("--out", type=Path, default=Path("runs/waves.jsonl"))
    parser.add_argument("--plot", type=Path, help="draw the plan's and a measured timeline of the last rho to this SVG")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--interface", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        rank_main(args.rank, args.address, 29817, args.interface, args.tokens)
        return
    from wavefold.bench.circumstances import append, circumstances

    pair = Pair(args.loopback, args.tokens)
    try:
        if args.loopback:
            for num in COUNTS:
                seconds = pair.seconds(args.repeats, "waves", num)
                print(f"{num:2} waves  {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)
            return
        lines = study(pair, args.rho, args.repeats)
        append(args.out, [line | circumstances(args.repeats) for line in lines])
        if args.plot:
            draw(pair, lines[-1], args.plot)
    finally:
        pair.close()


if __name__ == "__main__":
    main()
