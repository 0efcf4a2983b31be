"""A policy over a trace: how many of the experts that are asked for are found in a slot.

    for each pass, each layer: the distinct experts that its tokens chose, ascending
        found       ask
        not found   take, whose slot is not that of an expert of the same asking, as far as slots suffice

This is the order of `StreamedExperts.groups`. What depends on time is left out: reads ahead, and when a pass of more
experts than slots lets go of those that it has computed (here: of the oldest, when one open slot is left).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from wavefold.experts.slots import Key
from wavefold.experts.streamed import WIDE
from wavefold.experts.traces.policies import Policy
from wavefold.experts.traces.trace import Asking


def replay(askings: Sequence[Asking], policy: Policy, num_slots: int, num_experts: int) -> int:
    """Returns the number of experts that are found, of all that are asked for. The policy remembers what it holds."""
    hits = 0
    pinned: deque[Key] = deque()
    for layer, experts in askings:
        policy.begin(layer)
        wide = len(experts) > WIDE * num_experts
        for expert in experts:
            if len(pinned) >= max(1, num_slots - 1):
                policy.unpin(pinned.popleft())
            key = layer, expert
            if key in policy:
                hits += 1
                policy.ask(key)
            else:
                policy.take(key, wide)
            policy.pin(key)
            pinned.append(key)
        while pinned:
            policy.unpin(pinned.popleft())
    return hits
