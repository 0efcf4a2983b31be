"""What a layer is, is said in one place: `LayerSpec` (config/layers.py). No other file of wavefold/ asks for a ratio.

CSA, HCA, SWA, a ratio compared with 4 or 128        in config/ alone
compress_ratios, num_hash_layers                     read in config/ alone
"csa", "hca", and "index" as a kind of rows          in config/layers.py and cache/layout.py alone
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small import SMALL
from wavefold.cache import entries_of, keys_of
from wavefold.config import LayerSpec, ModelConfig

ROOT = Path(__file__).resolve().parents[1]

CONSTANTS = {"CSA", "HCA", "SWA"}
KEYS = {"compress_ratios", "num_hash_layers"}
KINDS = {"csa", "hca"}
VIEW = {"append", "entries", "gather", "rows", "rows_of", "tail", "tail_rows"}
"""Methods of a view and a pool that take a kind of rows first."""


def names(node: ast.AST) -> set[str]:
    """The names that a node is or brings in."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    return {node.name, node.asname or ""} if isinstance(node, ast.alias) else set()


def strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def speaks_of(node: ast.AST, word: str) -> bool:
    return any(word in name.lower() for inner in ast.walk(node) for name in names(inner))


def branches_on_a_ratio(node: ast.AST) -> bool:
    """True for `ratio == 4`, `spec.ratio in (4, 128)`, `{4: ..., 128: ...}[ratio]` and a match of a ratio."""
    if isinstance(node, ast.Compare):
        key, against = [node.left, *node.comparators], [node.left, *node.comparators]
    elif isinstance(node, ast.Subscript):
        key, against = [node.slice], [node.value]
    elif isinstance(node, ast.Match):
        key, against = [node.subject], [case.pattern for case in node.cases]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        key, against = list(node.args), [node.func.value]
    else:
        return False
    numbers = {n.value for part in against for n in ast.walk(part) if isinstance(n, ast.Constant)}
    return any(speaks_of(part, "ratio") for part in key) and bool(numbers & {4, 128})


def is_a_kind(node: ast.AST) -> bool:
    """True for "index" as the first argument of a view's method, and compared with or assigned to a kind."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VIEW and node.args:
        return "index" in strings(node.args[0])
    if isinstance(node, ast.Compare):
        return speaks_of(node, "kind") and "index" in strings(node)
    if isinstance(node, ast.keyword):
        return "kind" in (node.arg or "") and "index" in strings(node.value)
    if isinstance(node, ast.Assign):
        return any(speaks_of(target, "kind") for target in node.targets) and "index" in strings(node.value)
    return False


def broken(path: str, source: str) -> Iterator[str]:
    """Broken rules of one file, by line."""
    in_config, may_name = path.startswith("wavefold/config/"), path == "wavefold/cache/layout.py"
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if not in_config and names(node) & CONSTANTS:
            yield f"{path}:{line}: a compress ratio's constant; ask the LayerSpec"
        if not in_config and isinstance(node, ast.Attribute) and node.attr in KEYS:
            yield f"{path}:{line}: {node.attr} is read; config.layers says what a layer is"
        if not in_config and branches_on_a_ratio(node):
            yield f"{path}:{line}: a branch on a compress ratio; ask the LayerSpec"
        if path != "wavefold/config/layers.py" and not may_name:
            if isinstance(node, ast.Constant) and node.value in KINDS:
                yield f"{path}:{line}: the kind {node.value!r}; name rows by entries_of(spec) and keys_of(spec)"
            if is_a_kind(node):
                yield f"{path}:{line}: the kind 'index'; name rows by keys_of(spec)"


def test_layers_are_asked_for_in_one_place() -> None:
    found = [
        line
        for file in sorted((ROOT / "wavefold").rglob("*.py"))
        for line in broken(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from wavefold.config import CSA",
        "from wavefold.config import CSA as RATIO",
        "import wavefold.config as config\nx = config.HCA",
        "def f(SWA): return SWA",
        "x = config.compress_ratios[3]",
        "hashed = layer < config.num_hash_layers",
        "if self.ratio == 4: pass",
        "if 128 == spec.ratio: pass",
        "if attn.spec.ratio in (4, 128): pass",
        "x = {4: 1, 128: 2}[ratio]",
        "x = {4: 1, 128: 2}.get(spec.ratio, 0)",
        "match ratio:\n    case 4: pass",
        "x = view.entries('csa', 0, 1, 2)",
        "KINDS = ('hca',)",
        "x = view.gather('index', layer, numbers)",
        "if self.kind == 'index': pass",
        "compressor = Compressor(config, kind='index')",
        "kind = 'index' if keys else other",
    ],
)
def test_rule_refuses(source: str) -> None:
    assert list(broken("wavefold/model/attention.py", source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wavefold/config/model.py", "from wavefold.config.layers import CSA\nif ratio == 4: self.compress_ratios"),
        ("wavefold/cache/layout.py", "x = RowKind('csa', 'index', spec.ratio)"),
        ("wavefold/model/attention.py", "if spec.ratio > 0 and spec.part == other.part: view.entries(*rows, 0, 4)"),
        ("wavefold/model/attention.py", "x = ratio * 4 if spec.overlap else 128"),
        ("wavefold/ops/reference/index.py", "count('index', 2 * q.numel())"),
        ("wavefold/cache/record.py", "form = 'index'"),
    ],
)
def test_rule_accepts(path: str, source: str) -> None:
    assert list(broken(path, source)) == []


# -- what the specs are ------------------------------------------------------------------------------------------------


def test_layers_of_a_configuration() -> None:
    """By hand: SMALL's layers, the MTP module's last."""
    assert SMALL.layers == (
        LayerSpec(0, 128, ratio=0, overlap=False, indexed=False, hashed=True),
        LayerSpec(1, 128, ratio=4, overlap=True, indexed=True, hashed=False),
        LayerSpec(2, 128, ratio=128, overlap=False, indexed=False, hashed=False),
        LayerSpec(3, 128, ratio=0, overlap=False, indexed=False, hashed=False),
    )
    assert SMALL.main_layers == SMALL.layers[:3]
    assert SMALL.layers is SMALL.layers


def test_what_follows_from_a_spec() -> None:
    window, sparse, dense, _ = SMALL.layers
    assert [spec.part for spec in (window, sparse, dense)] == ["window", "csa", "hca"]
    assert [spec.has_compressor for spec in (window, sparse, dense)] == [False, True, True]
    assert [spec.has_indexer for spec in (window, sparse, dense)] == [False, True, False]
    assert [spec.has_keys for spec in (window, sparse, dense)] == [False, True, False]
    reader = sparse._replace(layer=7, entries_of=1)
    assert (reader.has_compressor, reader.has_keys, reader.has_indexer) == (False, False, True)
    assert not reader._replace(choice_of=1).has_indexer
    assert entries_of(reader) == entries_of(sparse) and keys_of(reader) == keys_of(sparse)
    assert not reader.alone and not window._replace(late_pre=True).alone and sparse.alone


@pytest.mark.parametrize("name", ["nano", "flash", "pro"])
def test_hashed_layers_are_the_first(name: str) -> None:
    config = ModelConfig.preset(name)
    hashed = [spec.layer for spec in config.layers if spec.hashed]
    assert hashed == list(range(config.num_hash_layers))
    assert [spec.ratio for spec in config.layers] == list(config.compress_ratios)
    assert {spec.window for spec in config.layers} == {config.sliding_window}


def test_a_copy_derives_its_own() -> None:
    changed = (*SMALL.layers[:1], SMALL.layers[1]._replace(hashed=True), *SMALL.layers[2:])
    config = SMALL.with_layers(changed)
    assert (config.layers, SMALL.layers[1].hashed) == (changed, False)
    assert config == SMALL and config.replace().layers == SMALL.layers
    assert all(not spec.compressed and spec.window == 999 for spec in SMALL.without_entries(999).layers)
