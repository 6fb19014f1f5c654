"""The command line: `psmr`. Commands are thin; what they do is in the package.

Exit codes: 0 done; 1 a failure at run time; 2 wrong usage, configuration, port, directory, missing tool; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from psmr import __version__
from psmr.cli import bench, calling, check, demo, inspection, kv, local, serve
from psmr.errors import PsmrError

__all__ = ["main", "psmr"]

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="psmr")
def psmr() -> None:
    """Parallel state-machine replication: services on several machines that behave like one, and use all cores."""


for command in (
    local.local,
    serve.serve,
    serve.config,
    inspection.status,
    inspection.verify,
    inspection.explain,
    check.check,
    kv.kv,
    calling.call,
    calling.shell,
    calling.stubs,
    bench.bench,
    demo.demo,
):
    psmr.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; an error becomes one line and an exit code."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = psmr.main(arguments, prog_name="psmr", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except PsmrError as error:
        click.echo(f"psmr: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has enough; Python must not try to flush the rest of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        click.echo(f"psmr: {error}", err=True)
        return 1
    return code if isinstance(code, int) else 0
