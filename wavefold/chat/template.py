"""Chats by a checkpoint's own template, as other programs write them: Jinja in its sandbox, in a process of its own.

A template comes from a file that nobody has checked. So it is interpreted without access to anything (Jinja's immutable
sandbox), and in a child with limits: `SECONDS` of processor time, `MOST_BYTES` of memory. The child gets JSON on stdin
and answers in JSON. Chats of checkpoints that have V4's markers never depend on a template.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SECONDS = 10
MOST_BYTES = 1 << 30
MOST_CHARACTERS = 1 << 18
"""Of a template."""
MOST_ANSWER = 1 << 22
GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
"""A tag of transformers that marks answers and writes nothing."""


def rendered(template: str, chats: Sequence[dict[str, Any]], seconds: int | None = None) -> list[str]:
    """Returns the text of each chat: {"messages", "add_generation_prompt", "bos_token", "eos_token"}.

    `seconds`: of processor time; None: `SECONDS`.

    Raises ValueError for a template that is too long, that fails, or that goes beyond the limits.
    """
    if len(template) > MOST_CHARACTERS:
        raise ValueError(f"a chat template of {len(template):,} characters; expected {MOST_CHARACTERS:,} at most")
    seconds = seconds or SECONDS
    job = json.dumps({"template": template, "chats": list(chats), "seconds": seconds})
    try:
        child = subprocess.run(
            [sys.executable, __file__], input=job, capture_output=True, text=True, encoding="utf-8",
            timeout=10 * seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError(f"the chat template takes more than {seconds} s; expected one that ends") from None
    if child.returncode:
        said = child.stderr.strip().splitlines()[-1:] or [f"its process ended with {child.returncode}"]
        raise ValueError(f"the chat template fails: {said[0][:300]}")
    if len(child.stdout) > MOST_ANSWER:
        raise ValueError(f"the chat template writes {len(child.stdout):,} characters; expected {MOST_ANSWER:,} at most")
    texts: list[str] = json.loads(child.stdout)
    return texts


def main() -> None:
    """In the child: a template and chats in, texts out."""
    import resource

    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = refuse
    source = GENERATION.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", job["template"])
    template = environment.from_string(source)
    json.dump([template.render(**chat) for chat in job["chats"]], sys.stdout)


if __name__ == "__main__":
    main()
