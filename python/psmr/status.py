"""What the replicas of a cluster say about themselves."""

from __future__ import annotations

import json
from typing import Any, TypedDict

from psmr import _psmr
from psmr.config import parse_address
from psmr.errors import UsageError

TIMEOUT_S = 5.0


class Stream(TypedDict):
    """One consensus log: a stream by its number, or the cross log."""

    id: int | str
    role: str
    term: int
    committed: int


class Group(TypedDict):
    """One multicast group."""

    id: int
    stream: int
    delivered: int
    queue: int


class Times(TypedDict):
    """How often something was timed, and how long it took, in microseconds."""

    count: int
    p50: int
    p99: int
    max: int


class Replica(TypedDict):
    """One replica. `pid` is 0, and the lists are empty, if it does not answer.

    `stages_us` times a sample: `command`, from a client's command to its reply; `replicate`, from an entry's proposal until it
    is committed, where this replica leads; `deliver`, from then until a group has executed it; `deliver_cross`, the same for
    the cross log; `park`, a group's wait at a barrier; `sync`, the log's syncs.

    `parallelism` is how commands run on the workers: `native` (the services of this package), `interpreter lock` (of Python's
    code one worker at a time, beside commands that wait or compute without the lock), `free-threaded` (all at a time);
    empty if it does not answer.
    """

    id: int
    pid: int
    state: str
    durability: str
    workers: int
    parallelism: str
    streams: list[Stream]
    groups: list[Group]
    stages_us: dict[str, Times]


class Cluster(TypedDict):
    """Every replica of a cluster, ascending by id."""

    replicas: list[Replica]


def check_address(text: str) -> str:
    """Return the address, or refuse what is not `host:port`."""
    try:
        parse_address(text)
    except ValueError:
        raise UsageError(f'address is "{text}": allowed is host:port with a port from 1 to 65535') from None
    return text


def of_replica(address: str, timeout_s: float = TIMEOUT_S) -> tuple[Replica, dict[int, str]]:
    """Ask one replica for its state, and for the client addresses of all replicas."""
    answer = json.loads(_psmr.status(address, timeout_s))
    clients = {int(number): client for number, client in answer["peers"].items() if client is not None}
    replica = _replica(answer)
    clients.setdefault(replica["id"], address)
    return replica, clients


def of_cluster(address: str, timeout_s: float = TIMEOUT_S) -> Cluster:
    """Ask every replica of the cluster that the one at the address belongs to."""
    check_address(address)
    first, clients = of_replica(address, timeout_s)
    others = {number: client for number, client in clients.items() if number != first["id"]}
    answers = json.loads(_psmr.statuses(list(others.values()), timeout_s))
    replicas = [first]
    for number, answer in zip(others, answers, strict=True):
        is_silent = "is_refused" in answer
        replicas.append(_silent(number, answer["is_refused"], first["durability"]) if is_silent else _replica(answer))
    return {"replicas": sorted(replicas, key=lambda replica: replica["id"])}


def _replica(answer: dict[str, Any]) -> Replica:
    return {
        "id": answer["id"],
        "pid": answer["pid"],
        "state": answer["state"],
        "durability": answer["durability"],
        "workers": answer["workers"],
        "parallelism": answer["parallelism"],
        "streams": answer["streams"],
        "groups": answer["groups"],
        "stages_us": answer["stages_us"] | {"sync": answer["fdatasync_us"]},
    }


def _silent(number: int, is_refused: bool, durability: str) -> Replica:
    """A replica without answer. Nobody listening in `memory` durability: what it held is lost."""
    state = "lost" if durability == "memory" and is_refused else "unreachable"
    return {
        "id": number,
        "pid": 0,
        "state": state,
        "durability": durability,
        "workers": 0,
        "parallelism": "",
        "streams": [],
        "groups": [],
        "stages_us": {},
    }
