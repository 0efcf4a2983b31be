"""Imports between the packages of wavefold/ run one way, and a few outside libraries have one home.

    gguf < {config, system} < {atomic, drawing, locate} < quant < ops < {cache, waves} < experts < model < checkpoint
        < data < {engine, train, quantize} < {llm, bench} < inside < {batch, doctor, jobs, pool, quality} < server
        < {cli, lm_eval}

`chat` sits beside the engine on `gguf`, `config` and `atomic`; of `train` only what composes a run may use it. `plan`
needs `config`, `system`, `atomic`, `drawing`. Every import counts: inside a function, under TYPE_CHECKING, or by
`importlib.import_module` with a literal name.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TIERS = [
    {"gguf"},
    {"config", "system"},
    {"atomic", "drawing", "locate"},
    {"quant"},
    {"ops"},
    {"cache", "waves"},
    {"experts"},
    {"model"},
    {"checkpoint"},
    {"data"},
    {"engine", "train", "quantize"},
    {"llm", "bench"},
    {"inside"},
    {"batch", "doctor", "jobs", "pool", "quality"},
    {"server"},
    {"cli", "lm_eval"},
]
# What each package may import: everything in the tiers below its own, nothing beside it.
ALLOWED = {name: set().union(*TIERS[:rank]) for rank, tier in enumerate(TIERS) for name in tier}
ALLOWED |= {"chat": {"gguf", "config", "system", "atomic"}, "plan": {"config", "system", "atomic", "drawing"}}
# Runs are composed here; how chats become ids is given to the rest of train/ as a function.
CHAT_IN_TRAIN = {"wavefold.train.session", "wavefold.train.texts"}
for _user in ("engine", "data", "quantize", "llm", "inside", "doctor", "quality", "server", "bench", "cli"):
    ALLOWED[_user].add("chat")
for _user in ("engine", "train", "llm", "server", "bench", "cli"):
    ALLOWED[_user].add("plan")

HOMES = {
    "wavefold.data.packages.duplicates": {"datasketch"},
    "wavefold.data.specialists.cron": {"cron_descriptor", "croniter"},
    "wavefold.data.specialists.dates": {"dateparser"},
    "wavefold.data.specialists.units": {"pint"},
    "wavefold.engine.grammar": {"llguidance"},
    "wavefold.lm_eval": {"lm_eval"},
    "wavefold.ops.tilelang": {"tilelang", "tvm"},
    "wavefold.ops.native": {"ctypes", "_ctypes", "cffi", "numpy.ctypeslib", "torch.utils.cpp_extension"},
    "wavefold.pool.hub": {"huggingface_hub", "httpx2"},
    "wavefold.server.recipe": {"deepseek_recipe"},
    "wavefold.server.uploads": {"python_multipart", "multipart"},
    "wavefold.server": {
        *("aiohttp", "bottle", "django", "falcon", "fastapi", "flask", "hypercorn", "litestar", "quart"),
        *("sanic", "socketserver", "starlette", "tornado", "uvicorn", "werkzeug", "wsgiref", "http.server"),
    },
}


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import; relative names start from `package`."""

    def absolute(level: int, name: str) -> str:
        base = package[: max(len(package) - (level - 1), 0)] if level else []
        return ".".join([*base, *filter(None, name.split("."))])

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.level, node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield node.lineno, absolute(len(name) - len(name.lstrip(".")), name)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def violations(path: str, source: str) -> list[str]:
    """Broken rules of one file; `path` is relative to the repository, e.g. "wavefold/ops/matmul.py"."""
    *package, stem = path.removesuffix(".py").split("/")
    here = ".".join(package if stem == "__init__" else [*package, stem])
    top = here in ("wavefold", "wavefold.__main__")
    layer = "" if top else here.split(".")[1]
    if not top and layer not in ALLOWED:
        return [f"{path}: {layer} has no place in the layering; give it one in tests/test_layering.py"]

    found = []
    for line, name in imported(ast.parse(source), package):
        if within(name, "wavefold"):
            target = ([*name.split("."), ""])[1]
            if top or target in (layer, "__version__") or target in ALLOWED[layer]:
                continue
            if target == "chat" and here in CHAT_IN_TRAIN:
                continue
            found.append(f"{path}:{line}: {layer} imports {name}")
        for home, libraries in HOMES.items():
            if any(within(name, library) for library in libraries) and not within(here, home):
                found.append(f"{path}:{line}: {name} outside {home}")
    return found


def test_imports_run_one_way() -> None:
    package = ROOT / "wavefold"
    assert package.is_dir()
    found = [
        broken
        for file in sorted(package.rglob("*.py"))
        for broken in violations(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wavefold/config.py", "import wavefold.quant.e2m1"),
        ("wavefold/config.py", "from .quant import e2m1"),
        ("wavefold/config.py", "from wavefold import ModelConfig"),
        ("wavefold/config.py", "import wavefold"),
        ("wavefold/quant/blocks.py", "from .. import ops"),
        ("wavefold/quant/__init__.py", "from ..ops import matmul"),
        ("wavefold/ops/reference/matmul.py", "from ...cache.pool import Pool"),
        ("wavefold/ops/matmul.py", "def f():\n    from wavefold.model import block"),
        ("wavefold/ops/matmul.py", "import importlib\nimportlib.import_module('wavefold.model')"),
        (
            "wavefold/ops/matmul.py",
            "import importlib\nimportlib.import_module('..model', __package__)",
        ),
        ("wavefold/cache/pool.py", "from wavefold.waves import mesh"),
        ("wavefold/waves/mesh.py", "from wavefold.cache import pool"),
        ("wavefold/experts/resident.py", "from ..model import block"),
        ("wavefold/waves/exchange.py", "from wavefold.experts import store"),
        ("wavefold/model/moe.py", "if TYPE_CHECKING:\n    from ..checkpoint.load import load"),
        ("wavefold/checkpoint/load.py", "from ..engine import request"),
        ("wavefold/engine/runner.py", "from ..train.losses import loss"),
        ("wavefold/train/trainer.py", "from ..engine.sampler import sample"),
        ("wavefold/train/data.py", "from ..chat.tokenizer import Tokenizer"),
        ("wavefold/train/session.py", "from ..engine.sampler import sample"),
        ("wavefold/train/session.py", "from ..cli.train import run"),
        ("wavefold/llm.py", "from .cli import main"),
        ("wavefold/engine/completion.py", "from ..llm import LLM"),
        ("wavefold/chat/prompt.py", "from ..model import transformer"),
        ("wavefold/plan/flops.py", "from ..cache import layout"),
        ("wavefold/model/block.py", "from ..plan import flops"),
        ("wavefold/server/app.py", "from ..cli import main"),
        ("wavefold/utils.py", "import os"),
        ("wavefold/ops/matmul.py", "import tilelang.language as T"),
        ("wavefold/ops/matmul.py", "__import__('tilelang')"),
        ("wavefold/ops/tilelang_tools.py", "import tilelang"),
        ("wavefold/cache/disk.py", "from ctypes import CDLL"),
        ("wavefold/ops/matmul.py", "from torch.utils import cpp_extension"),
        ("wavefold/cli/serve.py", "import fastapi"),
        ("wavefold/cli/serve.py", "from http import server"),
        ("wavefold/__init__.py", "import ctypes"),
    ],
)
def test_rule_refuses(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wavefold/__init__.py", "from .config import ModelConfig\nfrom .cli import main"),
        ("wavefold/__main__.py", "from wavefold.cli.main import main"),
        ("wavefold/config.py", "import json, dataclasses"),
        ("wavefold/checkpoint/export.py", "from wavefold import __version__, config"),
        ("wavefold/quant/blocks.py", "from . import e2m1\nfrom ..config import ModelConfig"),
        ("wavefold/ops/__init__.py", "from .native import loader\nfrom . import tilelang"),
        ("wavefold/ops/tilelang/__init__.py", "import tilelang\nfrom tilelang import language"),
        ("wavefold/ops/native/loader.py", "import ctypes\nfrom ...quant import e2m1"),
        ("wavefold/engine/runner.py", "from ..chat import tokenizer\nfrom ..checkpoint import load"),
        ("wavefold/train/session.py", "from ..chat.tokenizer import Tokenizer"),
        ("wavefold/llm.py", "from .engine import sample\nfrom .chat import Tokenizer"),
        ("wavefold/train/trainer.py", "from ..plan import flops\nfrom ..model import transformer"),
        ("wavefold/server/app.py", "import http.server\nimport fastapi\nfrom ..engine import request"),
        (
            "wavefold/cli/main.py",
            "import http.client\nfrom ..server import app\nfrom ..chat import tools",
        ),
        ("wavefold/plan/flops.py", "from ..config import ModelConfig\nfrom . import bytes"),
    ],
)
def test_rule_accepts(path: str, source: str) -> None:
    assert violations(path, source) == []
