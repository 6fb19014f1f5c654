"""What the declarations of a service mean: C-Dep, C-G, and what is likely to be a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psmr.service import ALL, Service
from psmr.suspects import suspects_of

__all__ = ["explain"]

#: A timer that runs more often than so stops all others noticeably.
_OFTEN_MS = 100


def explain(service: type[Service]) -> dict[str, Any]:
    """Return C-Dep and C-G of a service, as the extension does for its own, and warnings."""
    declared = list(service.declarations.values())
    pairs = [(one, other) for at, one in enumerate(declared) for other in declared[at:]]
    dependencies = [{"a": a.name, "b": b.name, "when": a.depends_on(b)} for a, b in pairs if a.depends_on(b) != "never"]
    groups = [{"command": one.name, "groups": one.groups, "mode": one.mode} for one in declared]
    return {"service": service.__name__, "c_dep": dependencies, "c_g": groups, "warnings": list(_warnings(service))}


def _warnings(service: type[Service]) -> Iterator[str]:
    name = service.__qualname__
    commands = [one for one in service.declarations.values() if not one.query]
    if commands and all(one.depends_on(other) == "always" for one in commands for other in commands):
        yield f"{name}: no two commands run in parallel; give them keys: what each touches of the state"
    else:
        for one in commands:
            if one.keys == ALL:
                yield f"{name}.{one.name} is of ALL: every worker waits for it, and while it runs nothing else does"
    for timer, period_ms in service.timers.items():
        if period_ms < _OFTEN_MS:
            yield f"{name}.{timer} runs {1000 / period_ms:g} times a second, and nothing else while it does"
    for suspect in suspects_of(service):
        yield f"{suspect.place}: {suspect.what}; {suspect.remedy}"
