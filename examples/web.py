"""A FastAPI application whose state is a psmr service: every instance of it, on any machine, sees the same votes.

psmr local examples/web.py:Votes &
PSMR=127.0.0.1:7379 uvicorn --app-dir examples web:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request

import psmr
import psmr.aio


class Votes(psmr.Service):
    """Polls; each voter has one vote in each."""

    def __init__(self) -> None:
        self.votes: dict[str, dict[str, str]] = {}

    @psmr.command(keys="poll")
    def vote(self, poll: str, voter: str, choice: str) -> bool:
        """Cast a vote, or change it; returns whether it is the voter's first."""
        votes = self.votes.setdefault(poll, {})
        is_first = voter not in votes
        votes[voter] = choice
        return is_first

    @psmr.query(keys="poll")
    def count(self, poll: str) -> dict[str, int]:
        """Return how many votes each choice has."""
        choices = list(self.votes.get(poll, {}).values())
        return {choice: choices.count(choice) for choice in sorted(set(choices))}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Connect to the cluster that PSMR names; without it, run the service in this process."""
    address = os.environ.get("PSMR")
    client = psmr.aio.local(Votes) if address is None else psmr.aio.connect(address.split(","), Votes)
    async with client as votes:
        app.state.votes = votes
        yield


app = FastAPI(lifespan=lifespan)


@app.put("/polls/{poll}/{voter}")
async def put_vote(request: Request, poll: str, voter: str, choice: str) -> dict[str, bool]:
    """Cast a vote."""
    try:
        return {"first": await request.app.state.votes.vote(poll, voter, choice)}
    except psmr.RuntimeFailure as error:
        raise HTTPException(503, str(error)) from error


@app.get("/polls/{poll}")
async def get_votes(request: Request, poll: str) -> dict[str, int]:
    """Return the count."""
    counted: dict[str, int] = await request.app.state.votes.count(poll)
    return counted
