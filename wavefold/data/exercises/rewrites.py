"""Rewrites of real functions, of which a program knows the result.

    rename      a parameter or a local gets another name, wherever it stands
    annotate    an annotation that the function has is taken away and asked for
    docstring   the docstring is taken away and asked for; any sentence is right, the rest has to stay

A check compares trees, so comments and blanks are free.
"""

from __future__ import annotations

import ast
import functools
import random
from collections.abc import Callable, Iterator

from wavefold.data.exercises.exercise import Exercise, code_of, same_code
from wavefold.data.exercises.functions import Definition, Function
from wavefold.data.python_source import parsed

NAMES = ("value", "item", "result", "name", "target", "source", "count", "text", "other", "index", "data", "path",
         "key", "options", "total", "first", "current", "entry", "size", "element")  # fmt: skip
RENAME = ("Rename the {kind} `{old}` to `{new}` in this function:",
          "In this function, call the {kind} `{new}` instead of `{old}`:")  # fmt: skip
ANNOTATE = ("Annotate the parameter `{name}` as `{type}`:", "Add the type `{type}` to the parameter `{name}`:")
RETURN = ("Add the return annotation `{type}`:", "Annotate that this function returns `{type}`:")
DOCSTRING = ("Add a docstring to this function:", "Document this function with a docstring:")
MIN_DOCSTRING_WORDS = 3
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp,
          ast.GeneratorExp)  # fmt: skip


def rewrite(function: Function, dice: random.Random) -> Exercise | None:
    """Returns a rewrite of the function, of a random kind that it allows, or None."""
    makers: list[Callable[[Function, random.Random], Exercise | None]] = [rename, annotate, docstring]
    dice.shuffle(makers)
    return next((exercise for maker in makers if (exercise := maker(function, dice)) is not None), None)


def rename(function: Function, dice: random.Random) -> Exercise | None:
    """Asks for another name of a parameter or local. None if no name can be replaced without doubt."""
    tree = function.tree()
    parameters = [arg.arg for arg in parameters_of(tree) if arg.arg not in ("self", "cls", "_")]
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    candidates = sorted({*parameters, *stored})
    dice.shuffle(candidates)
    for old in candidates:
        places = places_of(tree, old)
        free = [name for name in NAMES if name not in function.source]
        if not places or len(places) < 2 or not free:
            continue
        new = dice.choice(free)
        answer = replaced(function.lines, places, old, new)
        if old in words_of_strings(parsed(answer)):
            continue
        kind = "parameter" if old in parameters else "variable"
        question = dice.choice(RENAME).format(kind=kind, old=old, new=new)
        return Exercise(
            "rename", f"{question}\n\n{function.source}", answer, functools.partial(same_code, expected=answer)
        )
    return None


def annotate(function: Function, dice: random.Random) -> Exercise | None:
    """Asks for an annotation that was taken away, of a parameter or of what is returned. None where there is none."""
    tree = function.tree()
    marked: list[tuple[str, ast.expr]] = [
        (arg.arg, arg.annotation) for arg in parameters_of(tree) if arg.annotation is not None
    ]
    if tree.returns is not None:
        marked.append(("", tree.returns))
    if not marked:
        return None
    name, annotation = dice.choice(marked)
    if annotation.lineno != annotation.end_lineno:
        return None
    lines = function.lines
    line = lines[annotation.lineno - 1]
    before, after = line[: annotation.col_offset], line[annotation.end_col_offset :]
    head = before.rstrip()
    if not head.endswith("->" if not name else ":"):
        return None
    lines[annotation.lineno - 1] = head[:-2].rstrip() + after if not name else head[:-1].rstrip() + after
    bare = "\n".join(lines)
    expected = function.source
    try:
        parsed(bare)
    except SyntaxError:
        return None
    kind = ast.unparse(annotation)
    if len(kind) > 60:
        return None
    question = dice.choice(ANNOTATE if name else RETURN).format(name=name, type=kind)
    return Exercise("annotate", f"{question}\n\n{bare}", expected, functools.partial(same_code, expected=expected))


def docstring(function: Function, dice: random.Random) -> Exercise | None:
    """Asks for the docstring that was taken away. None for a function without one on lines of its own."""
    tree = function.tree()
    statement = tree.body[0]
    said = ast.get_docstring(tree)
    if said is None or len(said.split()) < MIN_DOCSTRING_WORDS or not isinstance(statement, ast.Expr):
        return None
    lines = function.lines
    head, last = lines[statement.lineno - 1], lines[(statement.end_lineno or 0) - 1]
    if head[: statement.col_offset].strip() or last[statement.end_col_offset :].strip():
        return None
    rest = lines[statement.end_lineno :]
    while rest and not rest[0].strip():
        rest = rest[1:]
    bare = "\n".join([*lines[: statement.lineno - 1], *rest])
    expected = ast.dump(parsed(bare))

    def accepts(text: str) -> bool:
        (node,) = (module := parsed(code_of(text))).body
        if not isinstance(node, Definition) or len((ast.get_docstring(node) or "").split()) < MIN_DOCSTRING_WORDS:
            return False
        del node.body[0]
        return ast.dump(module) == expected

    question = dice.choice(DOCSTRING)
    return Exercise("docstring", f"{question}\n\n{bare}", function.source, accepts)


def parameters_of(tree: Definition) -> list[ast.arg]:
    """Returns all parameters of a function in their order."""
    args = tree.args
    stars = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *stars]


def places_of(tree: Definition, name: str) -> list[tuple[int, int]]:
    """Returns (line, column) of every use of a local name, from 1 and 0. Empty if a use could be another variable.

    That is the case if an inner scope binds the name, if a statement binds it by a text (import, except, global,
    match), in defaults and annotations, which are outside of the function, and in an f-string, whose columns Python
    3.11 does not give. The keyword of a call belongs to another function and stays.
    """
    args = tree.args
    outside = [*args.defaults, *args.kw_defaults, tree.returns, *(arg.annotation for arg in parameters_of(tree))]
    if any(isinstance(node, ast.Name) and node.id in (name, "locals", "vars", "eval", "exec")
           for top in [*outside, *_named_calls(tree)] if top is not None for node in ast.walk(top)):  # fmt: skip
        return []
    for node in ast.walk(tree):
        if node is not tree and isinstance(node, SCOPES) and name in set(_bound(node)):
            return []
        if isinstance(node, ast.JoinedStr | ast.Global | ast.Nonlocal) and name in ast.dump(node):
            return []
        texts = (getattr(node, "name", None), getattr(node, "asname", None), getattr(node, "rest", None))
        if node is not tree and name in texts:
            return []
        if isinstance(node, ast.Call) and _calls_itself(node, tree.name, name):
            return []
    uses = [(node.lineno, node.col_offset) for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    uses += [(arg.lineno, arg.col_offset) for arg in parameters_of(tree) if arg.arg == name]
    return sorted(uses)


def replaced(lines: list[str], places: list[tuple[int, int]], old: str, new: str) -> str:
    """Returns the source with another name at the given places."""
    for line, column in reversed(places):
        text = lines[line - 1]
        assert text[column : column + len(old)] == old
        lines[line - 1] = text[:column] + new + text[column + len(old) :]
    return "\n".join(lines)


def words_of_strings(tree: ast.AST) -> set[str]:
    """Returns the words of all string constants: a docstring that names a variable would have to change with it."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {word.strip("`*:,.'\"()[]{}") for text in texts for word in text.split()}


def _named_calls(tree: ast.AST) -> list[ast.expr]:
    """Returns what is called by a plain name: `locals()` and its like see variables by their names."""
    return [node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            and node.func.id in ("locals", "vars", "eval", "exec")]  # fmt: skip


def _calls_itself(call: ast.Call, function: str, keyword: str) -> bool:
    """True if a call seems to be of the function itself, with this keyword."""
    target = getattr(call.func, "id", getattr(call.func, "attr", ""))
    return target == function and any(word.arg == keyword for word in call.keywords)


def _bound(scope: ast.AST) -> Iterator[str]:
    """Yields the names that a scope inside the function may bind."""
    for node in ast.walk(scope):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
