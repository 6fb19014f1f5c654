"""psmr.config: every mistake in a configuration is refused by file, key, value and what is allowed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from psmr.config import Config, example, parse_address, threads_default
from psmr.errors import UsageError

MEMBERS = """
[[replicas]]
id = 1
client = "10.0.0.1:7379"
peer = "10.0.0.1:7479"

[[replicas]]
id = 2
client = "10.0.0.2:7379"
peer = "10.0.0.2:7479"
"""
CLUSTER = f'cluster = "{"0f" * 16}"\n'
SOUND = f'{CLUSTER}replica = 2\ndata = "d"\n'


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return Config.load("kv", path)


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, example())
    assert (config.replica, config.groups, config.streams, config.workers) == (1, 16, 3, 2)
    assert config.data == tmp_path / "data"


def test_the_example_names_a_new_cluster_each_time(tmp_path: Path) -> None:
    assert load(tmp_path, example()).cluster != load(tmp_path, example()).cluster


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, SOUND + MEMBERS)
    assert (config.groups, config.streams, config.durability) == (16, 2, "fsync")
    assert config.workers >= 1
    assert (config.listen, config.peer_listen) == ("10.0.0.2:7379", "10.0.0.2:7479")


def test_memory_needs_no_directory(tmp_path: Path) -> None:
    assert load(tmp_path, f'{CLUSTER}replica = 1\ndurability = "memory"\n{MEMBERS}').data is None


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = load(tmp_path, SOUND + MEMBERS)
    odd = Config(**{**config.__dict__, "data": tmp_path / 'a "quoted"\\ dir\x7f', "listen": "[::1]:1"})
    assert load(tmp_path, odd.to_toml()) == odd


@pytest.mark.parametrize(
    ("text", "found"), [("7", 7), ("1b", 1), ("2k", 2048), ("1KB", 1024), ("3mb", 3 << 20), ("2gb", 2 << 30), ("1G", 1 << 30)]
)
def test_memory_is_said_as_for_redis(tmp_path: Path, text: str, found: int) -> None:
    config = load(tmp_path, f'{SOUND}maxmemory = "{text}"\nenable_debug = true\n{MEMBERS}')
    assert (config.maxmemory, config.enable_debug) == (found, True)
    assert load(tmp_path, config.to_toml()) == config
    assert json.loads(config.to_engine())["memory_bytes_max"] == found


def test_the_engine_gets_all_of_it(tmp_path: Path) -> None:
    engine = json.loads(load(tmp_path, SOUND + MEMBERS).to_engine())
    assert engine["peers"] == {"1": "10.0.0.1:7479", "2": "10.0.0.2:7479"}
    assert engine["clients"] == {"1": "10.0.0.1:7379", "2": "10.0.0.2:7379"}
    assert (engine["service"], engine["replica"], engine["listen"]) == ("kv", 2, "10.0.0.2:7379")
    assert engine["data"] == str(tmp_path / "d")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f'cluster = "XY"\nreplica = 1\ndata = "d"\n{MEMBERS}', ["cluster", '"XY"', "32 hexadecimal digits"]),
        (f'replica = 1\ndata = "d"\n{MEMBERS}', ["cluster is missing", "32 hexadecimal digits"]),
        (f'{CLUSTER}replica = 3\ndata = "d"\n{MEMBERS}', ["replica is 3", "1, 2"]),
        (f"{SOUND}groups = 65\n{MEMBERS}", ["groups is 65", "1 to 64"]),
        (f"{SOUND}groups = true\n{MEMBERS}", ["groups is true", "1 to 64"]),
        (f'{SOUND}groups = "16"\n{MEMBERS}', ['groups is "16"', "1 to 64"]),
        (f"{SOUND}groups = 4\nstreams = 5\n{MEMBERS}", ["streams is 5", "1 to 4"]),
        (f"{SOUND}workers = 0\n{MEMBERS}", ["workers is 0", "1 to 64"]),
        (f"{SOUND}threads = 'both'\n{MEMBERS}", ['threads is "both"', '"shared" or "own"']),
        (f'{SOUND}durability = "disk"\n{MEMBERS}', ['durability is "disk"', '"fsync" or "memory"']),
        (f"{CLUSTER}replica = 1\n{MEMBERS}", ["data is missing", "directory"]),
        (f'{SOUND}listen = "7379"\n{MEMBERS}', ['listen is "7379"', "host:port"]),
        (f'{SOUND}listen = "a:70000"\n{MEMBERS}', ['listen is "a:70000"', "1 to 65535"]),
        (f'{SOUND}maxmemory = "much"\n{MEMBERS}', ['maxmemory is "much"', "100mb"]),
        (f"{SOUND}maxmemory = -1\n{MEMBERS}", ["maxmemory is -1", "100mb"]),
        (f'{SOUND}enable_debug = "yes"\n{MEMBERS}', ['enable_debug is "yes"', "true or false"]),
        (f"{SOUND}colour = 1\n{MEMBERS}", ["colour is unknown", "cluster, replicas, replica"]),
        (f"{SOUND}replicas = []\n", ["replicas is []", "1 to 9 tables"]),
        (SOUND, ["replicas is missing"]),
        (f"{SOUND}{MEMBERS}size = 1\n", ["replicas[2].size is unknown", "id, client, peer"]),
        (f"{SOUND}{MEMBERS}".replace("id = 2", "id = 1").replace("replica = 2", "replica = 1"), ["replicas.id is 1", "no other"]),
        (f"{SOUND}{MEMBERS}".replace("id = 2", "id = 3"), ["replicas[2].id is 3", "1 to 2"]),
        (f"{SOUND}{MEMBERS}".replace("10.0.0.2:7479", "10.0.0.1:7479"), ["replicas.peer", "no other"]),
        ("cluster = ", ["is not TOML"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        load(tmp_path, text)
    message = str(refused.value)
    assert message.startswith(str(tmp_path / "node.toml"))
    assert "\n" not in message
    for part in named:
        assert part in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml: No such file.*psmr config example"):
        Config.load("kv", tmp_path / "absent.toml")


def test_addresses() -> None:
    assert parse_address("localhost:1") == ("localhost", 1)
    assert parse_address("[::1]:65535") == ("::1", 65535)
    for wrong in ("", "host", "host:", ":1", "host:0", "host:65536", "host:1x", "host:-1", "host:²"):
        with pytest.raises(ValueError, match=r"^" + wrong.replace("[", r"\[")):
            parse_address(wrong)


@pytest.mark.parametrize(("cores", "replicas", "threads"), [(2, 1, "shared"), (4, 1, "own"), (8, 3, "shared"), (12, 3, "own")])
def test_clients_and_consensus_share_a_thread_where_cores_are_few(
    monkeypatch: pytest.MonkeyPatch, cores: int, replicas: int, threads: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert threads_default(replicas) == threads
