"""A rate limiter: a token bucket for each client, on log time, so that all replicas agree on what is allowed."""

from __future__ import annotations

import psmr


class RateLimiter(psmr.Service):
    """Token buckets, in thousandths of a token: whole numbers are equal on every machine."""

    def __init__(self) -> None:
        #: Of each client: what is in the bucket, and when that was.
        self.buckets: dict[str, tuple[int, int]] = {}

    @psmr.command(keys="client")
    def allow(self, client: str, per_second: int, burst: int) -> bool:
        """Take a token, if there is one."""
        now_ms = self.context.now_ms
        tokens, since_ms = self.buckets.get(client, (burst * 1000, now_ms))
        tokens = min(burst * 1000, tokens + (now_ms - since_ms) * per_second)
        is_allowed = tokens >= 1000
        self.buckets[client] = (tokens - 1000 if is_allowed else tokens, now_ms)
        return is_allowed


if __name__ == "__main__":
    with psmr.local(RateLimiter) as limiter:
        print([limiter.allow("ann", per_second=1, burst=3) for _ in range(5)])
