"""What is said of a body that its model does not take: which fields are wrong, what is expected there, what to send.

pydantic's errors -> the first three, in words of JSON -> `Refused`, whose `param` is the first one's place
"""

from __future__ import annotations

import difflib
import itertools
import json
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from wavefold.server.protocol.errors import INVALID, Refused

SHOWN = 200
"""Characters of a value that an error repeats, at most."""
MOST_PROBLEMS = 1000
"""Of a body: those of more are not looked at one by one, which takes longer than all else."""
MOST_TOLD = 3
CLOSE = 0.85
"""How alike two names are, of 1, where one is taken for a slip of the other."""
UNSTORED = "nothing is stored here"
REASONS = {"store": UNSTORED, "background": f"{UNSTORED}, so no answer could be fetched later"}
"""Why a field takes one value alone."""


def noun(value: Any) -> str:
    """Returns what a value of JSON is, in a word."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    nouns = ((str, "a text"), (int | float, "a number"), (list, "a list"))
    return next((name for kind, name in nouns if isinstance(value, kind)), "an object")


def refusal(error: ValidationError, model: type[BaseModel]) -> Refused:
    """Returns what says which fields of a body are wrong, and what is expected there. `model`: the body's."""
    if (count := error.error_count()) > MOST_PROBLEMS:
        return Refused(400, f"the body has {count:,} fields that are wrong or unknown here; see /docs", INVALID)
    problems = sorted(error.errors(include_url=False, include_context=True), key=_rank)
    texts = [_text(problem, model) for problem in problems[:MOST_TOLD]]
    if count > MOST_TOLD:
        texts.append(f"and {count - MOST_TOLD} more")
    return Refused(400, "; ".join(dict.fromkeys(texts)), INVALID, _place(problems[0]["loc"]) or None)


def _rank(problem: Any) -> int:
    """An object of another kind, or an unknown field, explains what is missing."""
    if problem["type"].startswith("union_tag") or _is_kind(problem):
        return 0
    return {"extra_forbidden": 1, "missing": 2}.get(problem["type"], 3)


def _place(steps: Sequence[int | str]) -> str:
    return ".".join(str(step)[:SHOWN] for step in steps if not str(step).startswith("~"))


def _text(problem: Any, model: type[BaseModel]) -> str:
    place, kind = _place(problem["loc"]), problem["type"]
    if kind == "extra_forbidden":
        return _unknown(place, problem["loc"], model)
    if kind == "missing":
        return f"{place} is missing"
    if kind.startswith("union_tag"):
        return _of_no_kind(place, problem)
    if kind == "value_error":
        said = problem["msg"].removeprefix("Value error, ")
        return f"{place}: {said}" if place else str(said)
    if _is_kind(problem):
        return f"{place} {shown(problem['input'])} is not supported here; expected {problem['ctx']['expected']}"
    return f"{place} = {shown(problem['input'])} is not allowed; expected {_expected(problem)}"


def _is_kind(problem: Any) -> bool:
    return problem["type"] == "literal_error" and problem["loc"][-1] in ("type", "role")


def shown(value: Any) -> str:
    """Returns a value as JSON, a large one from its beginning."""
    pieces = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)  # not all of a large one
    text = "".join(itertools.islice(pieces, SHOWN + 1))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _of_no_kind(place: str, problem: Any) -> str:
    """An element of a union whose `type` or `role` is none of those that there are."""
    expected, value = problem["ctx"].get("expected_tags", "").replace("~", ""), problem["input"]
    key = "role" if "'assistant'" in expected else "type"
    one_of = f"one of {expected}" if "," in expected else expected
    if isinstance(value, dict):
        if key not in value:
            return f"{place} has no {key}; expected {one_of}"
        return f"{place}: {key} {_quoted(value[key])} is not supported here; expected {one_of}"
    return f"{place} is {noun(value)}; expected an object whose {key} is {one_of}"


def _quoted(value: Any) -> str:
    return repr(value[:SHOWN]) if isinstance(value, str) else shown(value)


def _unknown(place: str, steps: Sequence[int | str], model: type[BaseModel]) -> str:
    """A field that no model has: another protocol's, a slip, or one that is not supported."""
    *around, name = steps
    owner = _owner(model, around)
    if owner is not None:
        if (instead := getattr(owner, "elsewhere", {}).get(name)) is not None:
            return f"{place} is not a field of this protocol; send {instead}"
        names = [field.alias or key for key, field in owner.model_fields.items()]
        if near := difflib.get_close_matches(str(name)[:SHOWN], names, 1, CLOSE):
            return f"{place} is not known here; did you mean {_place([*around, near[0]])}?"
    return f"{place} is not supported here; leave it out"


def _owner(kind: Any, steps: Sequence[int | str]) -> type[BaseModel] | None:
    """Returns the model of the object at a place of a type; None where it is not of one."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _owner(members[0], steps)
    if origin is list:
        return _owner(members[0], steps[1:])
    if origin in (Union, types.UnionType):
        tagged = {_tag(member): member for member in members}
        if steps and steps[0] in tagged:
            return _owner(tagged[str(steps[0])], steps[1:])
        return next((found for member in members if _tag(member) is None and (found := _owner(member, steps))), None)
    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return None
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    if not steps:
        return kind
    return _owner(fields[str(steps[0])].annotation, steps[1:]) if steps[0] in fields else None


def _tag(member: Any) -> str | None:
    return next((one.tag for one in getattr(member, "__metadata__", ()) if isinstance(one, Tag)), None)


def _expected(problem: Any) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    last = str(problem["loc"][-1]) if problem["loc"] else ""
    if last.startswith("~") and kind in ("list_type", "model_type"):
        return "a text or a list" if kind == "list_type" else "a text or an object"
    if kind == "literal_error":
        literal = context["expected"]
        expected = {"False": "false", "True": "true"}.get(literal, literal)
        return f"{expected}, since {REASONS[last]}" if last in REASONS else expected
    if kind in _NOUNS:
        return _NOUNS[kind]
    if kind in _BOUNDS:
        return _BOUNDS[kind](context)
    said = problem["msg"]
    return f"a value of which it is true: {said[:1].lower()}{said[1:]}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


_NOUNS = {
    "model_type": "an object", "model_attributes_type": "an object", "dict_type": "an object", "list_type": "a list",
    "string_type": "a text", "int_type": "a whole number", "int_from_float": "a whole number",
    "bool_type": "true or false", "float_type": "a number", "finite_number": "a finite number",
    "none_required": "null", "string_unicode": "Unicode characters",
}  # fmt: skip
_BOUNDS: dict[str, Callable[[Any], str]] = {
    "greater_than_equal": lambda context: f"{_whole(context['ge'])} or more",
    "greater_than": lambda context: f"more than {_whole(context['gt'])}",
    "less_than_equal": lambda context: f"{_whole(context['le'])} or less",
    "less_than": lambda context: f"less than {_whole(context['lt'])}",
    "too_short": lambda context: f"{_count(context['min_length'], 'element')} or more",
    "too_long": lambda context: f"{_count(context['max_length'], 'element')} at most",
    "string_too_short": lambda context: f"{_count(context['min_length'], 'character')} or more",
    "string_too_long": lambda context: f"{_count(context['max_length'], 'character')} at most",
    "string_pattern_mismatch": lambda context: f"a text that matches {context['pattern']}",
}
