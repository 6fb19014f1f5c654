"""Every error that psmr raises, and the exit code of the command line for each.

PsmrError
├── UsageError        2  wrong usage, configuration, port, directory; a missing tool
├── RuntimeFailure    1  something failed while running: nothing is wrong with what was asked
│   └── OutcomeUnknown   a command may or may not have been executed
└── CommandError      1  the service refused a command, and said why

The extension raises these classes too.
"""

from __future__ import annotations

import errno

__all__ = ["CommandError", "OutcomeUnknown", "PsmrError", "RuntimeFailure", "UsageError"]


class PsmrError(Exception):
    """Anything that went wrong in psmr."""

    #: What the command line exits with.
    exit_code = 1


class UsageError(PsmrError):
    """What was asked for cannot be done as it was asked; the message says what to change."""

    exit_code = 2


class RuntimeFailure(PsmrError):
    """Something failed at run time."""


class OutcomeUnknown(RuntimeFailure):
    """The connection was lost or too slow: the command may or may not have been executed."""


class CommandError(PsmrError):
    """The service refused the command. The message is the service's own."""


#: What a disk says that is full or broken, whatever directory is chosen on it.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def of_file(place: object, what: str, error: OSError, remedy: str) -> PsmrError:
    """Return the error for a file or directory that the system refuses: the disk failed, or the place is the wrong one."""
    if error.errno in _DISK_ERRORS:
        return RuntimeFailure(f"{place}: {what}: {error.strerror}; free space on its disk, or check it, and start again")
    return UsageError(f"{place}: {what}: {error.strerror}; {remedy}")
