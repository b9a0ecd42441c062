"""What is read of a server's status."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from hqsam_client import AsyncHQSam, HQSam, RequestTimeoutError, contract, server_status
from hqsam_testing.waiting import TIMEOUT_S

from tests.client.conftest import StandIn, call_name, usual_answer

Serve = Callable[..., str]


def refusing(request: Any, context: Any) -> Any:
    """Answer as the models do to an `image_id` that is none."""
    if b"status" in request.raw_input_contents[0]:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "image_id is 'status'")
    return usual_answer(request)


def test_a_running_server_is_ready(url: str) -> None:
    with HQSam(url, timeout_s=TIMEOUT_S) as sam:
        assert sam.is_ready(TIMEOUT_S)
        status = server_status.read(sam, TIMEOUT_S, probe=True)
    assert status.ready
    assert status.problem is None
    assert status.probe_s is not None
    assert {model.name for model in status.models if model.ready} == {
        model.name for model in contract.MODELS
    }


def test_no_server_and_a_closed_client_are_not_ready(nobody: str, url: str) -> None:
    with HQSam(nobody) as sam:
        assert not sam.is_ready(10)
    with HQSam(url) as sam:
        assert sam.is_ready(TIMEOUT_S)
    assert not sam.is_ready(10)


def test_an_async_client_tells_it_too(nobody: str, url: str) -> None:
    async def check() -> None:
        async with AsyncHQSam(url) as sam:
            assert await sam.is_ready(TIMEOUT_S)
        assert not await sam.is_ready(10)
        async with AsyncHQSam(nobody) as sam:
            assert not await sam.is_ready(10)

    asyncio.run(check())


@pytest.mark.parametrize("dead", ["embed", "segment"])
def test_a_server_whose_model_has_died_is_not_ready_though_it_says_so(
    serve: Serve, stand_in: StandIn, dead: str
) -> None:
    def answer(request: Any, context: Any) -> Any:
        if call_name(request) == dead:
            context.abort(grpc.StatusCode.INTERNAL, "Stub process is not healthy")
        return refusing(request, context)

    stand_in.answer = answer
    with HQSam(serve()) as sam:
        assert sam.is_ready()
        status = server_status.read(sam, 10, probe=False)
    assert not status.ready
    assert "Stub process is not healthy" in (status.problem or "")


def test_the_probe_keeps_to_its_timeout_while_an_encode_hangs(
    serve: Serve, stand_in: StandIn
) -> None:
    go_on = threading.Event()

    def answer(request: Any, context: Any) -> Any:
        if call_name(request) == "upload":
            go_on.wait(60)
        return refusing(request, context)

    stand_in.answer = answer
    with HQSam(serve(), timeout_s=60, embed_timeout_s=60) as sam:
        try:
            with pytest.raises(RequestTimeoutError):
                server_status.read(sam, 1, probe=True)
            assert not go_on.is_set()
        finally:
            go_on.set()
    assert stand_in.models[-1] == "upload"


def test_metrics_that_cannot_be_read_are_none(nobody: str) -> None:
    host, _, port = nobody.rpartition(":")
    assert server_status.read_metrics(host, int(port), 5) == {}
