"""The types that the layers of the package pass to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, Union

#: What a service answers: a value, nothing, or several answers. Simple strings (`OK`) come as bytes.
Reply: TypeAlias = Union[bytes, int, list["Reply"], None]


class Executor(Protocol):
    """Anything that executes commands: an engine in this process, or a connection to a cluster."""

    def execute(self, arguments: Sequence[bytes]) -> Reply:
        """Execute one command, its name first. Raises CommandError if the service refuses it."""
        ...

    def close(self) -> None:
        """Let go of the engine or connection; a second call does nothing."""
        ...
