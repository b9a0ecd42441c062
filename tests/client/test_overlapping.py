"""Calls that a newer one, a closed client or a cancelled task ends while the server is busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from hqsam_client import AsyncHQSam, HQSam, PromptError, SupersededError, UnavailableError
from hqsam_testing.waiting import TIMEOUT_S

from tests.client.conftest import StandIn, call_name, usual_answer

Serve = Callable[..., str]


class Busy:
    """Holds calls of one kind back; answers all others as usual.

    Attributes:
        kind: "segment" or "upload"; for "upload", `segment` misses until one is answered.
        arrived: set when such a call has arrived.
        go_on: set to answer it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.arrived = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, request: Any, context: Any) -> Any:
        name = call_name(request)
        if name == self.kind:
            self.arrived.set()
            self.go_on.wait(TIMEOUT_S)
        elif name == "segment" and not self.go_on.is_set():
            context.abort(grpc.StatusCode.NOT_FOUND, "no such image")
        return usual_answer(request, stored=False)


@pytest.fixture
def busy(request: pytest.FixtureRequest, stand_in: StandIn) -> Iterator[Busy]:
    behaviour = Busy(request.param)
    yield behaviour
    behaviour.go_on.set()


@pytest.mark.parametrize("busy", ["segment", "upload"], indirect=True)
def test_a_superseded_call_ends_while_the_server_is_still_busy(
    serve: Serve, stand_in: StandIn, photo: bytes, busy: Busy
) -> None:
    with HQSam(serve()) as sam, ThreadPoolExecutor(2) as pool:
        image = sam.open(photo)
        stand_in.answer = busy
        older = pool.submit(image.latest.segment, points=[(3, 4)])
        assert busy.arrived.wait(TIMEOUT_S)
        newer = pool.submit(image.latest.segment, points=[(5, 6)])
        error = older.exception(TIMEOUT_S / 2)
        assert isinstance(error, SupersededError)
        assert not busy.go_on.is_set()
        busy.go_on.set()
        assert newer.result(TIMEOUT_S).size == (200, 300)


@pytest.mark.parametrize("busy", ["segment", "upload"], indirect=True)
def test_closing_an_async_client_ends_its_calls_with_an_error_of_this_package(
    serve: Serve, stand_in: StandIn, photo: bytes, busy: Busy
) -> None:
    async def check() -> None:
        sam = AsyncHQSam(serve())
        image = await sam.open(photo)
        stand_in.answer = busy
        call = asyncio.ensure_future(image.segment(points=[(3, 4)]))
        assert await asyncio.to_thread(busy.arrived.wait, TIMEOUT_S)
        await sam.close()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        assert isinstance(outcome, UnavailableError), repr(outcome)
        assert not busy.go_on.is_set()

    asyncio.run(check())


@pytest.mark.parametrize("busy", ["segment", "upload"], indirect=True)
def test_a_cancelled_task_is_cancelled_while_the_server_is_still_busy(
    serve: Serve, stand_in: StandIn, photo: bytes, busy: Busy
) -> None:
    async def check() -> None:
        async with AsyncHQSam(serve()) as sam:
            image = await sam.open(photo)
            stand_in.answer = busy
            call = asyncio.ensure_future(image.segment(points=[(3, 4)]))
            assert await asyncio.to_thread(busy.arrived.wait, TIMEOUT_S)
            call.cancel()
            (outcome,) = await asyncio.gather(call, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError), repr(outcome)
            assert not busy.go_on.is_set()

    asyncio.run(check())


@pytest.mark.parametrize("busy", ["segment"], indirect=True)
def test_closing_a_client_ends_the_calls_of_other_threads(
    serve: Serve, stand_in: StandIn, photo: bytes, busy: Busy
) -> None:
    with ThreadPoolExecutor(2) as pool:
        sam = HQSam(serve())
        image = sam.open(photo)
        stand_in.answer = busy
        calls = [pool.submit(image.segment, points=[(3, 4)])]
        calls.append(pool.submit(image.latest.segment, points=[(3, 4)]))
        assert busy.arrived.wait(TIMEOUT_S)
        sam.close()
        for call in calls:
            assert isinstance(call.exception(TIMEOUT_S), UnavailableError)


@pytest.mark.parametrize("busy", ["segment"], indirect=True)
def test_a_wrong_prompt_on_latest_ends_nothing(
    serve: Serve, stand_in: StandIn, photo: bytes, busy: Busy
) -> None:
    with HQSam(serve()) as sam, ThreadPoolExecutor(1) as pool:
        image = sam.open(photo)
        stand_in.answer = busy
        call = pool.submit(image.latest.segment, points=[(3, 4)])
        assert busy.arrived.wait(TIMEOUT_S)
        with pytest.raises(PromptError, match="outside the image"):
            image.latest.segment(points=[(9999, 90)])
        busy.go_on.set()
        assert call.result(TIMEOUT_S).size == (200, 300)
