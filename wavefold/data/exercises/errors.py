"""Errors with their explanation and remedy: a real function gets one fault, in one line, and the answer mends the line.

    def area(self)          What is wrong?   Line 1: SyntaxError: expected ':'. The `def` line needs a colon at its end:
        return self.w                            def area(self):

Messages are those of this Python: `compile` says them about syntax, and `symtable` finds a name that nothing binds.
Nothing is run. A line of an answer is right if the function with it is the one before the fault.
"""

from __future__ import annotations

import ast
import builtins
import random
import re
import symtable
import warnings
from collections.abc import Callable

from wavefold.data.exercises.exercise import Exercise, same_code
from wavefold.data.exercises.functions import Function

ASKED = ("What is wrong with this function?", "Why does Python reject this code?", "Find the error in this function:")
NAMED = ("What is wrong with this function?", "This function fails. Why?", "Find the error in this function:")
HEADER = re.compile(r"\s*(?:async )?(def|class|if|elif|else|for|while|try|except|finally|with)\b.*:$")
SWAPPED = ("return", "import", "raise", "while", "yield", "except", "elif", "lambda", "class", "not")
ANSWER = "Line {line}: `{error}`. {reason}:\n\n{mended}"
MENDED = re.compile(r"Line (\d+)\b.*?`(\w+Error).*?\n\n(.*)", re.DOTALL)

Fault = tuple[str, str]
"""(the line with the fault, why it is wrong)."""


def mend(function: Function, dice: random.Random) -> Exercise | None:
    """Returns an exercise with a fault of a random kind in a random line that allows it, or None."""
    kinds = [*SYNTAX, "name"]
    dice.shuffle(kinds)
    for kind in kinds:
        numbers = list(range(len(function.lines)))
        dice.shuffle(numbers)
        for number in numbers[:8]:
            exercise = misspelt(function, number, dice) if kind == "name" else broken(function, number, kind, dice)
            if exercise is not None:
                return exercise
    return None


def broken(function: Function, number: int, kind: str, dice: random.Random) -> Exercise | None:
    """Asks for a fault of syntax in line `number`, from 0. None if the line has no place for it."""
    fault = SYNTAX[kind](function.lines[number], dice)
    if fault is None:
        return None
    source = with_line(function, number, fault[0])
    error = syntax_error(source)
    if error is None or error.lineno != number + 1:
        return None
    said = f"{type(error).__name__}: {error.msg}"
    return _exercise(kind, function, number, source, said, fault[1], dice.choice(ASKED))


def misspelt(function: Function, number: int, dice: random.Random) -> Exercise | None:
    """Asks for a misspelt local in line `number`, from 0. None if the line reads no local of four letters or more."""
    local = local_names(function.source)
    names = [node for node in ast.walk(function.tree()) if isinstance(node, ast.Name) and node.lineno == number + 1
             and isinstance(node.ctx, ast.Load) and node.id in local and len(node.id) >= 4]  # fmt: skip
    line = function.lines[number]
    names = [node for node in names if line[node.col_offset : node.end_col_offset] == node.id]
    if not names:
        return None
    node = dice.choice(names)
    place = dice.randrange(1, len(node.id) - 1)
    wrong = swapped(node.id, place)
    if wrong == node.id or not wrong.isidentifier() or wrong in function.module or hasattr(builtins, wrong):
        return None
    source = with_line(function, number, line[: node.col_offset] + wrong + line[node.end_col_offset :])
    if syntax_error(source) is not None or wrong not in unbound_names(source):
        return None
    said = f"NameError: name '{wrong}' is not defined"
    return _exercise("name", function, number, source, said, f"The variable is called `{node.id}`", dice.choice(NAMED))


def _exercise(
    kind: str, function: Function, number: int, source: str, said: str, reason: str, question: str
) -> Exercise:
    mended = function.lines[number].strip()
    answer = ANSWER.format(line=number + 1, error=said, reason=reason, mended=mended)
    indent = function.lines[number][: len(function.lines[number]) - len(function.lines[number].lstrip())]

    def accepts(text: str) -> bool:
        found = MENDED.fullmatch(text.strip())
        if found is None or int(found[1]) != number + 1 or found[2] != said.partition(":")[0]:
            return False
        line = found[3].strip().strip("`").strip()
        return "\n" not in line and same_code(with_line(function, number, indent + line), function.source)

    return Exercise(kind, f"{question}\n\n{source}", answer, accepts)


def with_line(function: Function, number: int, line: str) -> str:
    """Returns the function's source with another line `number`, from 0."""
    return "\n".join([*function.lines[:number], line, *function.lines[number + 1 :]])


def syntax_error(source: str) -> SyntaxError | None:
    """Returns what this Python says about a source, or None for a valid one. The source is compiled, not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "function", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None
    return None


def local_names(source: str) -> set[str]:
    """Returns the parameters and locals of the function that a source defines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tables = symtable.symtable(source, "function", "exec").get_children()
    return {symbol.get_name() for table in tables[-1:] for symbol in table.get_symbols() if symbol.is_local()}


def unbound_names(source: str) -> set[str]:
    """Returns the names that are read as globals and that neither the source nor Python's builtins define."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        top = symtable.symtable(source, "function", "exec")
    names: set[str] = set()
    waiting = list(top.get_children())
    while waiting:
        table = waiting.pop()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        waiting.extend(table.get_children())
    return {name for name in names if not hasattr(builtins, name)} - {s.get_name() for s in top.get_symbols()}


def swapped(word: str, place: int) -> str:
    """Returns the word with two neighbouring letters exchanged."""
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _without_colon(line: str, dice: random.Random) -> Fault | None:
    found = HEADER.fullmatch(line)
    return (line[:-1], f"The `{found[1]}` line needs a colon at its end") if found else None


def _without_bracket(line: str, dice: random.Random) -> Fault | None:
    for opening, closing in ("()", "[]", "{}"):
        if line.count(opening) == line.count(closing) > 0 and "'" not in line and '"' not in line:
            place = line.rindex(closing)
            return line[:place] + line[place + 1 :], f"The bracket `{opening}` is not closed; a `{closing}` is missing"
    return None


def _other_bracket(line: str, dice: random.Random) -> Fault | None:
    if line.count("(") == line.count(")") > 0 and "'" not in line and '"' not in line:
        place = line.rindex(")")
        return line[:place] + "]" + line[place + 1 :], "A `(` is closed by `]`; it has to be `)`"
    return None


def _without_quote(line: str, dice: random.Random) -> Fault | None:
    for quote, other in ("'\"", "\"'"):
        if line.count(quote) == 2 and other not in line and "#" not in line:
            place = line.rindex(quote)
            return line[:place] + line[place + 1 :], f"The text that begins with `{quote}` does not end"
    return None


def _assignment(line: str, dice: random.Random) -> Fault | None:
    if re.match(r"\s*(?:if|elif|while)\b", line) and line.count(" == ") == 1:
        return line.replace(" == ", " = "), "A comparison is written with `==`; `=` assigns"
    return None


def _indented(line: str, dice: random.Random) -> Fault | None:
    return (f"  {line}", "The line is indented by two blanks too many") if line.startswith("    ") else None


def _misspelt_word(line: str, dice: random.Random) -> Fault | None:
    found = re.fullmatch(rf"(\s*)({'|'.join(SWAPPED)})\b(.*)", line)
    if found is None:
        return None
    wrong = swapped(found[2], dice.randrange(0, len(found[2]) - 1))
    return (f"{found[1]}{wrong}{found[3]}", f"The word `{found[2]}` is misspelt") if wrong != found[2] else None


def _without_comma(line: str, dice: random.Random) -> Fault | None:
    if "'" in line or '"' in line or "(" not in line:
        return None
    places = [found.start() for found in re.finditer(r"(?<=\w), (?=\w)", line) if found.start() > line.index("(")]
    if not places:
        return None
    place = dice.choice(places)
    return line[:place] + line[place + 1 :], "A comma between two values is missing"


SYNTAX: dict[str, Callable[[str, random.Random], Fault | None]] = {
    "colon": _without_colon,
    "bracket": _without_bracket,
    "other bracket": _other_bracket,
    "quote": _without_quote,
    "comparison": _assignment,
    "indent": _indented,
    "word": _misspelt_word,
    "comma": _without_comma,
}
"""Kind -> how a line gets this fault. A fault that leaves a valid function is no exercise."""
