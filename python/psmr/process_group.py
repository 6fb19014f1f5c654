"""How server processes are started: out of reach of a Ctrl-C in the terminal, which is for the supervisor alone.

A process group of their own does that. A session of their own would too, but Linux then divides the processor between
sessions rather than threads, and servers that wait for each other on few cores lose by it.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["OWN_GROUP"]

#: Arguments for `subprocess.Popen`. Before Python 3.11 only a session can be asked for.
OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
