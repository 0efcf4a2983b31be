"""What the page shows of the machine, and what it asks about a token: /v1/wavefold/machine and /v1/wavefold/inside."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

from wavefold.inside import inside_answer
from wavefold.server.model import Model
from wavefold.server.protocol import Refused
from wavefold.server.protocol.errors import INVALID
from wavefold.server.served import Served
from wavefold.system.memory import rss_bytes, tightest

MOST_INSIDE = 16_384
"""Tokens of a text that is looked into."""


async def machine(served: Served, model: Model) -> Response:
    """Returns rates, memory and counts of a model at this moment, with what goes through its adapters.

    `bytes_read`: of experts, from files, since the model was loaded. `bound_tokens_per_s`: see bound.py; None until
    somebody has asked while nothing ran. Raises Refused for a model that leaves meanwhile.
    """
    engine, runner, bound = model.running, model.llm.runner, model.bound
    if bound.is_wanted and not engine.num_open:
        await served.in_thread(False, bound.measure)
        if not engine.is_alive:  # it was unloaded meanwhile
            raise Refused(404, f"model {model.name!r} is not in memory", "model_not_found")
    limit, most = tightest(), bound.tokens_per_s(engine.tokens_per_pass)
    return JSONResponse({
        "model": model.name,
        "tokens_per_s": round(engine.rate.per_s, 2) if engine.rate.total else None,
        "bound_tokens_per_s": None if most is None else round(most, 2),
        "bytes_read": model.expert_bytes_read,
        "memory": {"resident_bytes": rss_bytes(), "limit_bytes": limit.total},
        "requests": {"running": engine.num_running, "waiting": engine.num_waiting},
        "prefix_blocks": {"used": runner.num_used_blocks, "total": runner.num_blocks},
        "drafts": {"guessed": runner.num_drafted, "right": runner.num_accepted},
    })  # fmt: skip


def inside(model: Model, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Returns what the model saw at a token, through its adapter if it has one (docs/inside.md). Raises Refused."""
    try:
        asked = json.loads(body.decode("utf-8"))
        if not isinstance(asked, dict):
            raise ValueError("the body is no JSON object; expected one with ids, text or messages")
        asked.pop("model", None)  # it has been found by it
        return json.dumps(inside_answer(model.llm, asked, None, MOST_INSIDE, model.adapter)).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(400, str(error), INVALID) from None
