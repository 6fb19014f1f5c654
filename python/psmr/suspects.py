"""What in the source of a service is likely to differ between replicas: warnings by place, with a remedy."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psmr.service import Service

__all__ = ["Suspect", "suspects_of"]

_CLOCK = "use self.context.now: every replica has a clock of its own"
_CHANCE = "use self.context.random: every replica draws its own"
_IDENTITY = "use self.context.command_id, or uuid.UUID(int=self.context.random.getrandbits(128))"
_OUTSIDE = "let the client do it, and pass what it found as an argument: every replica would do it, each at another time"
_THREADS = "let psmr run commands in parallel: what other threads do has another order on every replica"
_SORT = "use sorted(...): sets have another order in every process"
_FSUM = "use math.fsum, or whole numbers: a sum of floats depends on the order, which differs between replicas"
_GLOBAL = "keep it in self: what is outside of the instance is neither replicated nor in checkpoints"

#: Functions and classes by module and name; a module alone stands for all in it.
_CALLS = {
    "time": _CLOCK,
    "time.sleep": "let the client wait: a worker that sleeps executes nothing else",
    "datetime.datetime.now": _CLOCK,
    "datetime.datetime.utcnow": _CLOCK,
    "datetime.datetime.today": _CLOCK,
    "datetime.date.today": _CLOCK,
    "random": _CHANCE,
    "numpy.random": _CHANCE,
    "secrets": _CHANCE,
    "os.urandom": _CHANCE,
    "uuid.uuid1": _IDENTITY,
    "uuid.uuid4": _IDENTITY,
    "builtins.id": "use a key of your own: an address differs on every replica",
    "builtins.hash": "use zlib.crc32 or hashlib: hash() of text differs in every process",
    **dict.fromkeys(
        ("builtins.open", "builtins.input", "os", "pathlib.Path", "shutil", "subprocess", "socket", "http", "urllib.request"),
        _OUTSIDE,
    ),
    **dict.fromkeys(("requests", "httpx", "aiohttp"), _OUTSIDE),
    **dict.fromkeys(("threading", "multiprocessing", "concurrent", "asyncio"), _THREADS),
}
#: A generator with a seed draws the same everywhere; paths are text.
_ALLOWED = ("random.Random", "os.path", "os.fspath")
#: What gives the same for every order of what it is given.
_ORDERLESS = ("sorted", "set", "frozenset", "len", "min", "max", "any", "all", "sum")
_ORDERED = ("list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed")
_CHANGES = {
    "add",
    "append",
    "appendleft",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
}


@dataclass(frozen=True)
class Suspect:
    """One place in the source."""

    #: FILE:LINE.
    place: str
    what: str
    remedy: str
    #: The commands that come there.
    commands: list[str] = field(default_factory=list, compare=False)


def suspects_of(service: type[Service]) -> list[Suspect]:
    """Return what is suspect in a service's commands, and in functions of their modules that they call by name."""
    found: dict[tuple[str, int, str], Suspect] = {}
    for name in (*service.declarations, *service.timers):
        for function in _reached(service, inspect.unwrap(getattr(service, name))):
            file = function.__code__.co_filename
            for node, what, remedy in _Suspicions(service, function).all():
                line = getattr(node, "lineno", function.__code__.co_firstlineno)
                place = f"{_relative(file)}:{line}"
                one = found.setdefault((file, line, what), Suspect(place, f"{function.__qualname__} {what}", remedy))
                if name not in one.commands:
                    one.commands.append(name)
    return [found[at] for at in sorted(found)]


def _reached(service: type[Service], function: Any) -> Iterator[Any]:
    """Return a function, and those that it calls by name: of its module, and methods of the service."""
    seen: set[Any] = set()
    todo = [function]
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        tree = _definition(one)
        if tree is None:
            continue
        yield one
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called: Any = None
            if isinstance(node.func, ast.Name):
                called = one.__globals__.get(node.func.id)
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "self":
                called = getattr(service, node.func.attr, None)
            called = inspect.unwrap(called) if callable(called) else None
            if inspect.isfunction(called) and called.__module__ in (one.__module__, service.__module__):
                todo.append(called)


@functools.cache
def _module_tree(file: str) -> ast.Module | None:
    try:
        return ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def _definition(function: Any) -> ast.FunctionDef | None:
    """Return the definition of a function, with the lines of its file; None if there is no source."""
    tree = _module_tree(function.__code__.co_filename)
    if tree is None:
        return None
    first = function.__code__.co_firstlineno
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
            starts = [node.lineno, *(decorator.lineno for decorator in node.decorator_list)]
            if min(starts) <= first <= node.lineno:
                return node
    return None


def _relative(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file


class _Suspicions:
    """What is suspect in one function."""

    def __init__(self, service: type[Service], function: Any) -> None:
        self._function = function
        tree = _definition(function)
        assert tree is not None
        self._tree = tree
        annotations = _annotations(service)
        self._sets = {text for text, kind in annotations.items() if kind.startswith(("set", "frozenset"))}
        self._dicts_of_sets = {text for text, kind in annotations.items() if "dict[" in kind and "set[" in kind}
        self._dicts_of_floats = {text for text, kind in annotations.items() if "dict[" in kind and "float" in kind}
        arguments = [*tree.args.args, *tree.args.kwonlyargs]
        self._sets |= {
            one.arg
            for one in arguments
            if one.annotation is not None and ast.unparse(one.annotation).startswith(("set", "frozenset"))
        }
        #: What the function itself imports, by module and name.
        self._imported: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and self._is_set(node.value):
                self._sets |= {ast.unparse(target) for target in node.targets}
            elif isinstance(node, ast.Import):
                self._imported |= {one.asname or one.name.partition(".")[0]: one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom):
                self._imported |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}

    def all(self) -> Iterator[tuple[ast.AST, str, str]]:
        """Return each suspect node, what it does, and a remedy."""
        orderless = {
            id(argument)
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ORDERLESS
            for argument in node.args
        }
        orderless |= {id(node) for node in ast.walk(self._tree) if isinstance(node, (ast.SetComp, ast.DictComp))}
        for statement in self._tree.body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Call):
                    yield from self._call(node, id(node) in orderless)
                elif isinstance(node, (ast.ListComp, ast.GeneratorExp)) and id(node) not in orderless:
                    yield from ((one.iter, "iterates over a set", _SORT) for one in node.generators if self._is_set(one.iter))
                elif isinstance(node, ast.For) and self._is_set(node.iter):
                    yield node.iter, "iterates over a set", _SORT
                elif isinstance(node, ast.Subscript) and self._origin(node.value) == "os.environ":
                    yield node, "reads os.environ", _OUTSIDE
                elif isinstance(node, ast.Global):
                    yield node, f"changes {', '.join(node.names)}, outside of the instance", _GLOBAL
                elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
                    yield from self._assignment(node)

    def _call(self, node: ast.Call, is_orderless: bool) -> Iterator[tuple[ast.AST, str, str]]:
        name = self._origin(node.func)
        remedy = _remedy(name, bool(node.args or node.keywords))
        if remedy is not None:
            yield node, f"calls {name.removeprefix('builtins.')}()", remedy
        first = node.args[0] if node.args else None
        if name == "builtins.sum" and first is not None and self._adds_floats(first):
            yield node, f"adds up floats: {ast.unparse(node)}", _FSUM
        is_ordered = name.removeprefix("builtins.") in _ORDERED or (
            isinstance(node.func, ast.Attribute) and node.func.attr == "join"
        )
        if is_ordered and not is_orderless and any(self._is_set(argument) for argument in node.args):
            yield node, "iterates over a set", _SORT
        if not isinstance(node.func, ast.Attribute):
            if name == "builtins.next" and first is not None and self._is_outside(first):
                yield node, f"changes {ast.unparse(first)}, outside of the instance", _GLOBAL
        elif node.func.attr == "pop" and not node.args and self._is_set(node.func.value):
            yield (
                node,
                "takes any item of a set",
                "take min(...) or sorted(...)[0]: which one pop() takes differs in every process",
            )
        elif node.func.attr in _CHANGES and self._is_outside(node.func.value):
            yield node, f"changes {ast.unparse(node.func.value)}, outside of the instance", _GLOBAL

    def _assignment(self, node: ast.Assign | ast.AugAssign | ast.Delete) -> Iterator[tuple[ast.AST, str, str]]:
        for target in [node.target] if isinstance(node, ast.AugAssign) else node.targets:
            if isinstance(target, (ast.Subscript, ast.Attribute)) and self._is_outside(target.value):
                yield node, f"changes {ast.unparse(target.value)}, outside of the instance", _GLOBAL

    def _adds_floats(self, node: ast.expr) -> bool:
        source = node.generators[0].iter if isinstance(node, (ast.GeneratorExp, ast.ListComp)) else node
        return ast.unparse(source).removesuffix(".values()").removesuffix(".items()") in self._dicts_of_floats

    def _is_outside(self, node: ast.expr) -> bool:
        """Whether it is an object that the module has, rather than the instance: no class, module or function."""
        if not isinstance(node, ast.Name) or node.id in self._function.__code__.co_varnames:
            return False
        held = self._function.__globals__.get(node.id)
        return held is not None and not inspect.ismodule(held) and not callable(held)

    def _is_set(self, node: ast.expr) -> bool:
        if isinstance(node, (ast.Set, ast.SetComp)):
            return True
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)):
            return self._is_set(node.left) or self._is_set(node.right)
        if isinstance(node, ast.Subscript):
            return ast.unparse(node.value) in self._dicts_of_sets
        return isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in self._sets

    def _origin(self, node: ast.expr) -> str:
        """Return what a name stands for, by module and name: `random.choice` for `choice` that was imported from there."""
        if isinstance(node, ast.Attribute):
            inner = self._origin(node.value)
            return f"{inner}.{node.attr}" if inner else ""
        if not isinstance(node, ast.Name):
            return ""
        if node.id in self._imported:
            return self._imported[node.id]
        if node.id in self._function.__code__.co_varnames:
            return ""
        held = self._function.__globals__.get(node.id, getattr(builtins, node.id, None))
        if inspect.ismodule(held):
            return held.__name__
        if not callable(held):
            return ""
        owner = getattr(held, "__self__", None)
        if owner is not None and not inspect.ismodule(owner):
            # Such as random.choice, a method of an object that the module has.
            return f"{type(owner).__module__}.{held.__name__}"
        module = held.__module__ or ""
        return f"{_PUBLIC.get(module, module)}.{held.__qualname__}"


#: Modules in C, by what they are behind.
_PUBLIC = {"posix": "os", "io": "builtins", "_io": "builtins"}


def _remedy(name: str, has_arguments: bool) -> str | None:
    if any(name == one or name.startswith(f"{one}.") for one in _ALLOWED) and (has_arguments or name != "random.Random"):
        return None
    while name:
        if name in _CALLS:
            return _CALLS[name]
        name = name.rpartition(".")[0]
    return None


def _annotations(service: type[Service]) -> dict[str, str]:
    """Return the types of the attributes that the service's classes say, by the text that stands for each: `self.balances`."""
    found: dict[str, str] = {}
    for cls in reversed(service.__mro__[: service.__mro__.index(Service)]):
        tree = _module_tree(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
        body = (
            next((one for one in ast.walk(tree) if isinstance(one, ast.ClassDef) and one.name == cls.__name__), None)
            if tree
            else None
        )
        for node in ast.walk(body) if body is not None else ():
            if isinstance(node, ast.AnnAssign):
                text = ast.unparse(node.target)
                found[text if "." in text else f"self.{text}"] = ast.unparse(node.annotation)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "set":
                found |= {ast.unparse(target): "set" for target in node.targets}
    return found
