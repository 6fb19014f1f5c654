"""`psmr kv`: data into and out of the key-value store, and a console for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click

from psmr.cli.options import FILE, terminate_as_interrupt
from psmr.errors import RuntimeFailure, UsageError
from psmr.transfer import EXISTING, Imported, digest_of, download, export_file, import_file, open_store

ADDRESS_DEFAULT = "127.0.0.1:7379"

connect_option = click.option(
    "--connect", "address", metavar="HOST:PORT", default=ADDRESS_DEFAULT, show_default=True, help="Any replica of the cluster."
)


@click.group()
def kv() -> None:
    """Move data into and out of the key-value store, or talk to it."""


@kv.command("import")
@click.argument("source", metavar="FILE|redis://HOST:PORT")
@connect_option
@click.option(
    "--existing",
    type=click.Choice(EXISTING),
    default="fail",
    show_default=True,
    help="Keys that are there already: fail if the store is not empty, replace them, or keep them.",
)
@click.option("--database", type=click.IntRange(0), help="Of several in the source, the one to take.")
@click.option("--skip-other-types", is_flag=True, help="Leave out what is no string, instead of refusing the source.")
@click.option(
    "--resume",
    type=FILE,
    metavar="FILE",
    help="Where to keep how far it is: run again after an interruption, it goes on from there.",
)
@click.option("--verify/--no-verify", default=True, help="Read everything back, and compare.")
def import_(
    source: str,
    address: str,
    existing: Literal["fail", "replace", "keep"],
    database: int | None,
    skip_other_types: bool,
    resume: Path | None,
    verify: bool,
) -> None:
    """Import the strings of a Redis: from one of its files (dump.rdb), or from one that runs.

    Nothing is written before the source has been read to its end.
    """
    terminate_as_interrupt()
    if "://" in source and resume is not None:
        raise click.UsageError("--resume goes on with a file: get one with `redis-cli --rdb FILE` first.")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_store(address))
        if "://" in source:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psmr-import-"))) / "dump.rdb"
            with _progress("getting") as tell, path.open("wb") as file:
                download(source, file, lambda done, whole: tell(done, done / max(1, whole)))
        else:
            path = Path(source)
        with _progress("keys") as tell:
            found = import_file(
                path,
                store,
                database=database,
                existing=existing,
                skip_other_types=skip_other_types,
                resume=resume,
                verify=verify,
                tell=tell,
            )
    click.echo(_told(found))


def _told(found: Imported) -> str:
    parts = [f"{found.keys} keys imported"]
    parts += [f"{found.kept} kept as they were"] if found.kept else []
    parts += [f"{found.expired} had expired"] if found.expired else []
    parts += [f"{count} of type {kind} left out" for kind, count in sorted(found.others.items())]
    parts += [f"read back, digest {found.digest}"] if found.digest is not None else []
    return "; ".join(parts)


@kv.command("export")
@click.argument("path", type=FILE, metavar="FILE")
@connect_option
def export(path: Path, address: str) -> None:
    """Write all keys to a file that a Redis loads (RDB).

    Each key that is there all the while is in it, as of some moment meanwhile.
    """
    terminate_as_interrupt()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open_store(address) as store, _progress("keys") as tell, temporary.open("wb") as file:
            written = export_file(store, file, tell)
            file.flush()
            os.fsync(file.fileno())
        if digest_of(temporary) != written:
            raise RuntimeFailure(f"{path}: what was written is not what is read back; is the disk in order?")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    click.echo(f"{written.keys} keys in {path}; read back, digest {written.digest}")


@kv.command("cli", context_settings={"ignore_unknown_options": True})
@connect_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def cli(address: str, arguments: tuple[str, ...]) -> None:
    """Run redis-cli on a replica; ARGUMENTS are its own: a command, or its options."""
    program = shutil.which("redis-cli")
    if program is None:
        raise UsageError("redis-cli is missing: install your system's package of Redis's tools (Debian: apt install redis-tools)")
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit():
        raise UsageError(f'--connect is "{address}": allowed is host:port')
    sys.stdout.flush()
    os.execv(program, [program, "-h", host.strip("[]"), "-p", port, *arguments])  # noqa: S606 - the program that was asked for


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, float], None]]:
    """Show on a terminal how far something is."""
    if not sys.stderr.isatty():
        yield lambda _count, _share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.fields[count]:,} " + what), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0, count=0)
        yield lambda count, share: progress.update(task, completed=share, count=count)
