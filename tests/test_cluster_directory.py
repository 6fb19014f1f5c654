"""psmr.cluster_directory: what a cluster is stays what it is, and one supervisor uses a directory."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import pytest

from psmr import cluster_directory, ports
from psmr.cluster_directory import ClusterDirectory, Layout, last_line, write_by_rename
from psmr.errors import PsmrError, RuntimeFailure, UsageError

KV = Layout("kv")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_directory, "RELEASE_TIMEOUT_S", 0.1)


@pytest.mark.parametrize(("cores", "streams"), [(2, 1), (11, 1), (12, 3)])
def test_a_new_cluster_has_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, streams: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
    with ClusterDirectory(tmp_path / "new" / "deep", KV) as directory:
        identity = directory.identity
    assert (identity.replicas, identity.groups, identity.streams, identity.durability) == (3, 16, streams, "fsync")
    assert len(set(identity.peer_ports)) == 3


def test_streams_follow_groups_and_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)))
    with ClusterDirectory(tmp_path / "a", Layout("kv", groups=2)) as directory:
        assert directory.identity.streams == 2
    with ClusterDirectory(tmp_path / "b", Layout("kv", replicas=5)) as directory:
        assert directory.identity.streams == 5


def test_more_streams_than_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--streams is 17: allowed is 1 to 16"):
        ClusterDirectory(tmp_path, Layout("kv", streams=17))


def test_a_cluster_is_found_again(tmp_path: Path) -> None:
    with ClusterDirectory(tmp_path, Layout("kv", replicas=1, groups=4)) as directory:
        before = directory.identity
    with ClusterDirectory(tmp_path, KV) as directory:
        assert directory.identity == before


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, RuntimeFailure), (errno.EIO, RuntimeFailure), (errno.EACCES, UsageError), (errno.EROFS, UsageError)],
)
def test_a_full_disk_is_told_from_a_wrong_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, kind: type[PsmrError]
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(kind, match=f"{tmp_path}/file: cannot be written: no; "):
        write_by_rename(tmp_path / "file", "text")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(kind, match=f"{tmp_path}/data: cannot be used: no; "):
        ClusterDirectory(tmp_path / "data", KV)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    ClusterDirectory(tmp_path, KV).close()
    with pytest.raises(UsageError, match=r"cluster\.json: groups is 16, not 8: .*--data"):
        ClusterDirectory(tmp_path, Layout("kv", groups=8))


def test_peer_ports_are_chosen_anew_if_one_is_taken(tmp_path: Path) -> None:
    with ClusterDirectory(tmp_path, KV) as directory:
        before = directory.identity
    with socket.socket() as thief:
        thief.bind((ports.LOOPBACK, before.peer_ports[1]))
        thief.listen()
        with ClusterDirectory(tmp_path, KV) as directory:
            after = directory.identity
    assert before.peer_ports[1] not in after.peer_ports
    assert before.cluster == after.cluster
    assert json.loads((tmp_path / "cluster.json").read_text())["peer_ports"] == after.peer_ports


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    with ClusterDirectory(tmp_path, KV), pytest.raises(UsageError, match="is in use by another"):
        ClusterDirectory(tmp_path, KV)
    ClusterDirectory(tmp_path, KV).close()


def test_a_refused_directory_is_unlocked(tmp_path: Path) -> None:
    ClusterDirectory(tmp_path, KV).close()
    with pytest.raises(UsageError, match="replicas"):
        ClusterDirectory(tmp_path, Layout("kv", replicas=5))
    ClusterDirectory(tmp_path, KV).close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version is 2"),
        ({"surplus": 1}, "version is 1 with keys of another psmr"),
        ({"groups": 0}, "groups is 0"),
        ({"groups": "many"}, 'groups is "many"'),
        ({"streams": 99}, "streams is 99"),
        ({"replicas": 2}, "peer_ports is"),
        ({"peer_ports": [1, 2, 70000]}, "peer_ports is"),
        ({"durability": "hope"}, 'durability is "hope"'),
        ({"cluster": "x"}, 'cluster is "x"'),
    ],
)
def test_a_spoilt_identity_is_refused(tmp_path: Path, change: dict[str, object], named: str) -> None:
    ClusterDirectory(tmp_path, KV).close()
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError) as refused:
        ClusterDirectory(tmp_path, KV)
    assert named in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file: cannot be used: .*--data"):
        ClusterDirectory(tmp_path / "file", KV)


def test_a_temporary_directory_goes_away() -> None:
    directory = ClusterDirectory(None, KV)
    assert (directory.path / "cluster.json").exists()
    directory.close()
    assert not directory.path.exists()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with path.open() as reader:
        write_by_rename(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent/f: cannot be written"):
        write_by_rename(tmp_path / "absent" / "f", "text")


def test_the_last_words_of_a_replica(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 10_000 + b"\nthe disk is full \n\n")
    assert last_line(log) == "the disk is full"
    log.write_bytes(b"")
    assert last_line(log) == "it left no message"
