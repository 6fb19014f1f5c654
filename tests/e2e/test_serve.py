"""`psmr serve` by itself: what it refuses to start with, and its end by a signal."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from psmr import _psmr, config, ports
from psmr.errors import RuntimeFailure
from tests.e2e.support import START_TIMEOUT_S, STOP_TIMEOUT_S, consecutive_ports, psmr_command, run_psmr, wait_until


def configure(directory: Path, port: int, data: Path) -> Path:
    """Write the configuration of the only replica of a cluster."""
    directory.mkdir(exist_ok=True)
    address, peer = f"{ports.LOOPBACK}:{port}", f"{ports.LOOPBACK}:{port + 1}"
    member = config.Member(1, address, peer)
    found = config.Config(
        service="kv",
        cluster="c5" * 16,
        replica=1,
        members=(member,),
        groups=4,
        streams=1,
        workers=1,
        threads="own",
        durability="fsync",
        data=data,
        listen=address,
        peer_listen=peer,
    )
    path = directory / "node.toml"
    path.write_text(found.to_toml())
    return path


def is_serving(port: int, state: str = "serving") -> bool:
    try:
        return f'"{state}"' in _psmr.status(f"{ports.LOOPBACK}:{port}", 5.0)
    except RuntimeFailure:
        return False


def ignore_interrupts() -> None:
    """As a shell does in a script, for what it starts with &."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def serving(
    path: Path, port: int, before: Callable[[], None] | None = None, *, wait: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """Run a replica: it serves when the block starts, unless nobody is to wait for that."""
    command = psmr_command("serve", "kv", "--config", path)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=before)
    try:
        wait_until(lambda: not wait or process.poll() is not None or is_serving(port), START_TIMEOUT_S, "it serves")
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [None, ignore_interrupts])
def test_a_signal_ends_it_with_0(tmp_path: Path, number: signal.Signals, before: Callable[[], None] | None) -> None:
    port = consecutive_ports(2)
    with serving(configure(tmp_path, port, tmp_path / "data"), port, before) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=STOP_TIMEOUT_S)
        assert (process.returncode, said) == (0, "")


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    port = consecutive_ports(2)
    path = configure(tmp_path, port, tmp_path / "data")
    text = path.read_text()
    # A documentation address, which no machine has, and a name that nobody has.
    for foreign, shown in (
        (f"192.0.2.1:{port}", "choose an address of this machine"),
        ("nobody.invalid:7", "allowed is an address"),
    ):
        path.write_text(text.replace(f'listen = "{ports.LOOPBACK}:{port}"', f'listen = "{foreign}"', 1))
        refused = run_psmr("serve", "kv", "--config", path)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert f"{path}: listen is " in refused.stderr
        assert foreign in refused.stderr
        assert shown in refused.stderr


def test_a_peer_without_an_address_does_not_stop_the_start(tmp_path: Path) -> None:
    port = consecutive_ports(4)
    path = configure(tmp_path, port, tmp_path / "data")
    others = f"""
[[replicas]]
id = 2
client = "{ports.LOOPBACK}:{port + 2}"
peer = "{ports.LOOPBACK}:{port + 3}"

[[replicas]]
id = 3
client = "nobody.invalid:7379"
peer = "nobody.invalid:7479"
"""
    path.write_text(path.read_text() + others)
    second = tmp_path / "second.toml"
    own = {f'listen = "{ports.LOOPBACK}:{port + n}"': f'listen = "{ports.LOOPBACK}:{port + n + 2}"' for n in (0, 1)}
    text = path.read_text().replace("replica = 1", "replica = 2").replace(str(tmp_path / "data"), str(tmp_path / "second"))
    for first, other in own.items():
        text = text.replace(first, other, 1)
    second.write_text(text)
    with serving(second, port + 2, wait=False) as one, serving(path, port, wait=False) as other_:
        # A new cluster waits for all of its replicas.
        wait_until(lambda: is_serving(port, "recovering"), START_TIMEOUT_S, "it answers")
        assert one.poll() is None
        other_.send_signal(signal.SIGTERM)
        _, said = other_.communicate(timeout=STOP_TIMEOUT_S)
        assert other_.returncode == 0
        assert 'the peer address of replica 3 is "nobody.invalid:7479"' in said


def test_a_port_in_use(tmp_path: Path) -> None:
    port = consecutive_ports(2)
    path = configure(tmp_path, port, tmp_path / "data")
    for taken in (port, port + 1):
        with socket.create_server((ports.LOOPBACK, taken)):
            refused = run_psmr("serve", "kv", "--config", path)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        key = "listen" if taken == port else "peer_listen"
        assert f"{path}: {key} is {ports.LOOPBACK}:{taken}" in refused.stderr
        assert "in use" in refused.stderr
        assert "choose another port" in refused.stderr


def test_a_directory_in_use(tmp_path: Path) -> None:
    port = consecutive_ports(2)
    with serving(configure(tmp_path, port, tmp_path / "data"), port):
        other = configure(tmp_path / "other", consecutive_ports(2), tmp_path / "data")
        refused = run_psmr("serve", "kv", "--config", other)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"{tmp_path / 'data'} is in use" in refused.stderr


def test_a_damaged_directory_is_a_failure_at_run_time(tmp_path: Path) -> None:
    port = consecutive_ports(2)
    path = configure(tmp_path, port, tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "identity").write_text("crc32c 00000000\n")
    refused = run_psmr("serve", "kv", "--config", path)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "is damaged" in refused.stderr
