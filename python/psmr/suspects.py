"""What in the source of a service is likely to differ between replicas: warnings by place, with a remedy."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psmr.service import Service

__all__ = ["Suspect", "suspects_of"]

_CLOCK = "use self.context.now: every replica has a clock of its own"
_CHANCE = "use self.context.random: every replica draws its own"
_IDENTITY = "use self.context.command_id, or random bytes of self.context.random"
_OUTSIDE = "let the client do it, and pass what it found as an argument: every replica would do it, each at another time"
_THREADS = "let psmr run commands in parallel: what other threads do has another order on every replica"

#: Calls by the name that the source has, or its start.
_CALLS = {
    "time.time": _CLOCK,
    "time.time_ns": _CLOCK,
    "time.monotonic": _CLOCK,
    "time.perf_counter": _CLOCK,
    "datetime.now": _CLOCK,
    "datetime.utcnow": _CLOCK,
    "datetime.today": _CLOCK,
    "date.today": _CLOCK,
    "datetime.datetime.now": _CLOCK,
    "datetime.datetime.utcnow": _CLOCK,
    "datetime.date.today": _CLOCK,
    "random.": _CHANCE,
    "secrets.": _CHANCE,
    "os.urandom": _CHANCE,
    "uuid.uuid1": _IDENTITY,
    "uuid.uuid4": _IDENTITY,
    "uuid1": _IDENTITY,
    "uuid4": _IDENTITY,
    "id": "use a key of your own: an address differs on every replica",
    "hash": "use zlib.crc32 or hashlib: hash() of str differs in every process",
    "open": _OUTSIDE,
    "socket.": _OUTSIDE,
    "requests.": _OUTSIDE,
    "httpx.": _OUTSIDE,
    "urllib.": _OUTSIDE,
    "subprocess.": _OUTSIDE,
    "threading.": _THREADS,
    "asyncio.": _THREADS,
}
_SORT = "sort it first: sets have another order in every process"
_FSUM = "use math.fsum of sorted values, or whole numbers: a sum of floats depends on the order, which differs between replicas"


@dataclass(frozen=True)
class Suspect:
    """One place in the source."""

    #: FILE:LINE.
    place: str
    what: str
    remedy: str


def suspects_of(service: type[Service]) -> list[Suspect]:
    """Return what is suspect in a service's methods, and in functions of its module that they call by name."""
    found: list[Suspect] = []
    floats = _float_dicts(service)
    todo: list[Any] = [member for member in vars(service).values() if inspect.isfunction(member)]
    seen: set[Any] = set()
    while todo:
        function = todo.pop(0)
        if function in seen or function.__name__ == "__init__":
            continue
        seen.add(function)
        try:
            lines, first = inspect.getsourcelines(function)
            file = inspect.getsourcefile(function) or "?"
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            what, remedy = _suspicion(node, floats)
            if what:
                place = f"{_relative(file)}:{first + getattr(node, 'lineno', 1) - 1}"
                found.append(Suspect(place, f"{service.__qualname__}.{function.__name__}: {what}", remedy))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = function.__globals__.get(node.func.id)
                if inspect.isfunction(called) and called.__module__ == service.__module__:
                    todo.append(called)
    return found


def _relative(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file


def _suspicion(node: ast.AST, floats: set[str]) -> tuple[str, str]:
    if isinstance(node, ast.Call):
        name = _dotted(node.func)
        for start, remedy in _CALLS.items():
            if name == start or (start.endswith(".") and name.startswith(start)):
                return f"calls {name}()", remedy
        if name == "sum" and node.args and any(text in ast.unparse(node.args[0]) for text in floats):
            return f"adds up floats: {ast.unparse(node)}", _FSUM
    iterated = node.iter if isinstance(node, (ast.For, ast.comprehension)) else None
    if isinstance(iterated, (ast.Set, ast.SetComp)) or (isinstance(iterated, ast.Call) and _dotted(iterated.func) == "set"):
        return "iterates over a set", _SORT
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        names = ", ".join(node.names)
        return f"changes {names}, outside of the instance", "keep it in self: what is outside is not replicated"
    return "", ""


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def _float_dicts(service: type[Service]) -> set[str]:
    """Return the values of dicts of floats, as the source writes them: `self.weights.values()`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(service)))
    except (OSError, TypeError, SyntaxError):
        return set()
    return {
        f"{ast.unparse(node.target)}.values()"
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Attribute)
        and ast.unparse(node.annotation).startswith("dict[")
        and "float" in ast.unparse(node.annotation)
    }
