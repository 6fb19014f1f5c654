"""The site: every page is in its navigation, every public name is in the reference of the API, and says what it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomli

import psmr
import psmr.aio
import psmr.errors
import psmr.testing

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs/reference/python-api.md").read_text()
MODULES: list[ModuleType] = [psmr, psmr.aio, psmr.testing]
#: What no docstring says: constants have comments instead, the version is no object of its own.
CONSTANTS = ("ALL", "NONE", "__version__")


def public() -> dict[str, Any]:
    """Return everything that users import, by its whole name."""
    return {f"{module.__name__}.{name}": getattr(module, name) for module in MODULES for name in module.__all__}


def members(name: str, one: Any) -> Iterator[tuple[str, Any]]:
    """Return an object, and the public methods and properties that its class has of its own."""
    yield name, one
    if inspect.isclass(one):
        for attribute, value in vars(one).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                yield f"{name}.{attribute}", value


def test_every_public_name_is_in_the_reference() -> None:
    assert sorted(re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)) == sorted(public())


def test_errors_are_exported() -> None:
    assert set(psmr.errors.__all__) <= set(psmr.__all__)


@pytest.mark.parametrize("name", public())
def test_a_public_object_says_what_it_is(name: str) -> None:
    if name.rpartition(".")[2] in CONSTANTS:
        return
    for place, one in members(name, public()[name]):
        text = one.__doc__
        assert text is not None and text.strip().endswith((".", ":", "`")), (
            f"{place} has no docstring, or one that is no sentence"
        )


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    listed = list(pages(tomli.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    documents = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted([*documents, "index.md", "ARCHITECTURE.md", "STYLE.md", "CHANGELOG.md", "examples.md"])
