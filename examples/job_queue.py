"""A job queue: each job is given to one worker at a time, and again to another if that does not finish it in time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import psmr

LEASE_MS = 30_000


@dataclass
class Queue:
    """Jobs of one name: those that wait, and those that a worker has, with the end of its time."""

    waiting: deque[tuple[int, str]] = field(default_factory=deque[tuple[int, str]])
    taken: dict[int, tuple[str, int]] = field(default_factory=dict[int, tuple[str, int]])
    last: int = 0


class Jobs(psmr.Service):
    """Queues by name; they are independent of each other."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}

    @psmr.command(keys="queue")
    def put(self, queue: str, payload: str) -> int:
        """Add a job; returns its number."""
        jobs = self.queues.setdefault(queue, Queue())
        jobs.last += 1
        jobs.waiting.append((jobs.last, payload))
        return jobs.last

    @psmr.command(keys="queue")
    def take(self, queue: str) -> tuple[int, str] | None:
        """Take the first job, to be finished within 30 seconds; None if there is none."""
        jobs = self.queues.get(queue)
        if jobs is None:
            return None
        now_ms = self.context.now_ms
        late = sorted(number for number, (_, until_ms) in jobs.taken.items() if until_ms <= now_ms)
        for number in reversed(late):
            payload, _ = jobs.taken.pop(number)
            jobs.waiting.appendleft((number, payload))
        if not jobs.waiting:
            return None
        number, payload = jobs.waiting.popleft()
        jobs.taken[number] = (payload, now_ms + LEASE_MS)
        return number, payload

    @psmr.command(keys="queue")
    def finish(self, queue: str, number: int) -> bool:
        """Remove a job that was taken; returns whether it was still this worker's to finish."""
        jobs = self.queues.get(queue)
        return jobs is not None and jobs.taken.pop(number, None) is not None

    @psmr.query(keys="queue")
    def length(self, queue: str) -> int:
        """Return how many jobs wait."""
        jobs = self.queues.get(queue)
        return 0 if jobs is None else len(jobs.waiting)


if __name__ == "__main__":
    with psmr.local(Jobs) as jobs:
        for payload in ("resize a.png", "resize b.png"):
            jobs.put("images", payload)
        job = jobs.take("images")
        print(job, jobs.length("images"))
        if job is not None:
            print(jobs.finish("images", job[0]), jobs.finish("images", job[0]))
