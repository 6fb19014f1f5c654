"""Every error that psmr raises, and the exit code of the command line for each.

                          exit code, and whether the command may have been executed
PsmrError
├── UsageError            2  no   wrong usage, configuration, port, directory; a missing tool
│   └── ArgumentError     2  no   an argument of a command is missing, unknown or of another type than declared
├── RuntimeFailure        1  no   something failed while running: nothing is wrong with what was asked
│   ├── Unavailable       1  no   no replica answered in time: ask again
│   └── OutcomeUnknown    1  yes  the command may or may not have been executed, now or later
└── CommandError          1  yes  the command was executed, and raised an exception or refused

The extension raises these classes too.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any

__all__ = [
    "ArgumentError",
    "CommandError",
    "OutcomeUnknown",
    "PsmrError",
    "RuntimeFailure",
    "Unavailable",
    "UsageError",
]


class PsmrError(Exception):
    """Anything that went wrong in psmr: the base of all that it raises. The message is one line, with the remedy."""

    #: What the command line exits with.
    exit_code = 1
    #: Whether the command that it answers may have taken effect, or may still.
    may_have_been_executed = False


class UsageError(PsmrError):
    """What was asked for cannot be done as it was asked; the message says what to change."""

    exit_code = 2


class ArgumentError(UsageError, TypeError):
    """An argument of a command is missing, unknown or of another type than declared; nothing was sent."""


class RuntimeFailure(PsmrError):
    """Something failed at run time: nothing is wrong with what was asked. Raised as such where no class below fits."""


class Unavailable(RuntimeFailure):
    """No replica answered in time, and nothing was changed nor will be: ask again. A query that is lost raises it too."""


class OutcomeUnknown(RuntimeFailure):
    """The connection was lost or too slow: the command may or may not have been executed, or may be yet.

    Only a read of what it would have changed tells; asking again executes it again.
    """

    may_have_been_executed = True


class CommandError(PsmrError):
    """The command was executed, and refused or raised an exception: what that says is the message.

    An exception of a class of the service's own module is raised as that class too, so that `except bank.Overdrawn` works.
    """

    may_have_been_executed = True

    #: The name of the exception's class, with its module unless that is `builtins`; None where the class itself is raised.
    type: str | None = None

    @property
    def message(self) -> str:
        """What the exception said."""
        return super().__str__()

    def __str__(self) -> str:
        """Return the message, after the class where that is not raised itself."""
        return f"{self.type}: {self.message}" if self.type is not None else self.message


def raised_by_command(module: str) -> Callable[[str, str, str, tuple[Any, ...] | None], CommandError]:
    """Return what makes the exception that a client raises, for a service of this module."""
    known: dict[str, type[CommandError] | None] = {}

    def make(origin: str, name: str, message: str, arguments: tuple[Any, ...] | None) -> CommandError:
        """Return the exception of a class (`origin` is empty for the service's own module), with what it said."""
        if not origin and name not in known:
            known[name] = _own_class(module, name)
        own = None if origin else known[name]
        if own is not None and arguments is not None:
            try:
                return own(*arguments)
            except Exception:
                # Its class takes other arguments than those that it keeps; what it said is told all the same.
                own = None
        error = CommandError(message)
        error.type = f"{origin}.{name}" if origin and origin != "builtins" else name
        return error

    return make


def _own_class(module: str, name: str) -> type[CommandError] | None:
    """Return the class of this name in the module, as a CommandError."""
    found: Any = sys.modules.get(module)
    for step in name.split("."):
        found = getattr(found, step, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None
    if issubclass(found, CommandError):
        return found
    try:
        return type(found.__name__, (found, CommandError), {"__module__": found.__module__, "__qualname__": name})
    except TypeError:
        return None


#: What a disk says that is full or broken, whatever directory is chosen on it.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def of_file(place: object, what: str, error: OSError, remedy: str) -> PsmrError:
    """Return the error for a file or directory that the system refuses: the disk failed, or the place is the wrong one."""
    if error.errno in _DISK_ERRORS:
        return RuntimeFailure(f"{place}: {what}: {error.strerror}; free space on its disk, or check it, and start again")
    return UsageError(f"{place}: {what}: {error.strerror}; {remedy}")
