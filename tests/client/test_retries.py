"""What is sent again when a server is away or busy, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from hqsam_client import (
    HQSam,
    RequestRefusedError,
    ServerFailedError,
    TooManyRequestsError,
    UnavailableError,
    contract,
)
from hqsam_client.shared.channel import REPEATED_BYTES
from numpy.typing import NDArray

from tests.client.conftest import StandIn, call_name, usual_answer

Serve = Callable[..., str]


class Failing:
    """Answers a code to the first calls of a kind, then as usual."""

    def __init__(
        self,
        kind: str,
        times: int,
        stored: bool = True,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
    ) -> None:
        self._kind = kind
        self._left = times
        self._stored = stored
        self._code = code

    def __call__(self, request: Any, context: Any) -> Any:
        if call_name(request) == self._kind and self._left:
            self._left -= 1
            context.abort(self._code, "busy")
        return usual_answer(request, self._stored)


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    """An image whose file is larger than what gRPC repeats."""
    return np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)


def test_a_click_is_repeated_until_a_server_takes_it(
    serve: Serve, stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve()) as sam:
        image = sam.open(photo)
        stand_in.models.clear()
        stand_in.answer = Failing("segment", 4)
        image.segment(points=[(3, 4)])
    assert stand_in.models == ["segment"] * 5


INTERNAL = grpc.StatusCode.INTERNAL
"""What Triton answers for a process that dies on a call."""


def test_a_click_that_a_dying_process_lost_is_repeated(
    serve: Serve, stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve()) as sam:
        image = sam.open(photo)
        stand_in.models.clear()
        stand_in.answer = Failing("segment", 1, code=INTERNAL)
        image.segment(points=[(3, 4)])
        assert stand_in.models == ["segment"] * 2
        stand_in.models.clear()
        stand_in.answer = Failing("segment", 100, code=INTERNAL)
        with pytest.raises(ServerFailedError, match="answered INTERNAL: busy"):
            image.segment(points=[(3, 4)])
    assert stand_in.models == ["segment"] * 5


def test_an_upload_that_a_dying_process_lost_is_sent_once_more(
    serve: Serve, stand_in: StandIn, noise: NDArray[np.uint8]
) -> None:
    stand_in.answer = Failing("upload", 1, stored=False, code=INTERNAL)
    with HQSam(serve()) as sam:
        sam.open(noise)
        assert stand_in.models == ["embed", "upload", "embed", "upload"]
        stand_in.models.clear()
        stand_in.answer = Failing("upload", 100, stored=False, code=INTERNAL)
        with pytest.raises(ServerFailedError, match="answered INTERNAL: busy"):
            sam.open(noise)
    assert stand_in.models == ["embed", "upload", "embed", "upload"]


def test_a_large_batch_that_a_dying_process_lost_is_sent_once_more(
    serve: Serve, stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve()) as sam:
        image = sam.open(photo)
        stand_in.models.clear()
        stand_in.answer = Failing("segment", 1, code=INTERNAL)
        assert len(image.segment(boxes=[(i, 0, i + 1, 9) for i in range(250)])) == 250
    assert stand_in.models == ["segment", "embed", "segment"]


@pytest.mark.parametrize("code", ["UNKNOWN", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"])
def test_a_call_that_failed_for_another_reason_is_not_repeated(
    serve: Serve, stand_in: StandIn, noise: NDArray[np.uint8], code: str
) -> None:
    stand_in.answer = Failing("upload", 1, stored=False, code=grpc.StatusCode[code])
    with HQSam(serve()) as sam, pytest.raises(RequestRefusedError, match=code):
        sam.open(noise)
    assert stand_in.models == ["embed", "upload"]


def test_an_upload_to_a_busy_server_is_sent_twice_at_most(
    serve: Serve, stand_in: StandIn, noise: NDArray[np.uint8]
) -> None:
    stand_in.answer = Failing("upload", 100, stored=False)
    with HQSam(serve()) as sam, pytest.raises(UnavailableError, match="busy"):
        sam.open(noise)
    assert stand_in.models == ["embed", "upload", "embed", "upload"]


def test_an_upload_is_not_sent_again_when_the_server_has_it_by_then(
    serve: Serve, stand_in: StandIn, noise: NDArray[np.uint8]
) -> None:
    questions = iter([False, True])

    def answer(request: Any, context: Any) -> Any:
        if call_name(request) == "upload":
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone before it answered")
        return usual_answer(request, next(questions))

    stand_in.answer = answer
    with HQSam(serve()) as sam:
        sam.open(noise)
    assert stand_in.models == ["embed", "upload", "embed"]


def test_an_upload_survives_a_short_outage(
    serve: Serve, stand_in: StandIn, noise: NDArray[np.uint8]
) -> None:
    # The question after the failed upload finds the server away three times, too.
    outage = iter([False, True, True, True, True, False, False])

    def answer(request: Any, context: Any) -> Any:
        if next(outage):
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return usual_answer(request, stored=False)

    stand_in.answer = answer
    with HQSam(serve()) as sam:
        sam.open(noise)
    assert stand_in.models == ["embed", "upload", *["embed"] * 4, "upload"]


def test_a_large_batch_of_prompts_is_sent_once_more(
    serve: Serve, stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve()) as sam:
        image = sam.open(photo)
        stand_in.models.clear()
        stand_in.answer = Failing("segment", 1)
        masks = image.segment(boxes=[(i, 0, i + 1, 9) for i in range(250)])
    assert len(masks) == 250
    assert stand_in.models == ["segment", "embed", "segment"]


def test_a_long_token_does_not_keep_clicks_from_being_repeated(
    serve: Serve, stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve(), token="x" * (REPEATED_BYTES + 2000)) as sam:
        image = sam.open(photo)
        stand_in.models.clear()
        stand_in.answer = Failing("segment", 1)
        image.segment(points=[(3, 4)])
    assert stand_in.models == ["segment"] * 2


def test_in_a_long_outage_calls_are_no_longer_repeated(
    serve: Serve, stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve()) as sam:
        image = sam.open(photo)
        stand_in.answer = Failing("segment", 1000)
        with ThreadPoolExecutor(64) as pool:
            calls = [pool.submit(image.segment, points=[(3, 4)]) for _ in range(64)]
            assert all(isinstance(call.exception(), UnavailableError) for call in calls)
        stand_in.models.clear()
        with pytest.raises(UnavailableError):
            image.segment(points=[(3, 4)])
    assert stand_in.models == ["segment"]


def test_more_prompts_than_a_request_holds_are_sent_in_parts_in_order(
    serve: Serve, stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve()) as sam:
        image = sam.open(photo)
        stand_in.models.clear()
        masks = image.segment(points=[[(x / 2, 9)] for x in range(600)])
    assert stand_in.models == ["segment"] * 3
    x_in_frame = [float(mask.low_res_logits[0, 0]) for mask in masks]
    np.testing.assert_allclose(x_in_frame, np.arange(600) / 2 * 1024 / 300, rtol=1e-6)


@pytest.mark.parametrize("kind", ["segment", "upload"])
def test_a_call_that_the_server_has_no_turn_for_waits_as_long_as_it_says(
    serve: Serve, stand_in: StandIn, noise: NDArray[np.uint8], kind: str
) -> None:
    refusals = iter([0.02, 0.3])
    waited: list[float] = []

    def answer(request: Any, context: Any) -> Any:
        if call_name(request) == kind:
            waited.append(time.monotonic())
            for seconds in refusals:
                context.abort_with_status(TooMany(seconds))
        return usual_answer(request, stored=False)

    stand_in.answer = answer
    with HQSam(serve()) as sam:
        sam.open(noise).segment(points=[(3, 4)])
    assert len(waited) == 3
    assert waited[2] - waited[1] >= 0.3


def test_a_call_that_the_server_never_has_a_turn_for_says_how_long_to_wait(
    serve: Serve, stand_in: StandIn, noise: NDArray[np.uint8]
) -> None:
    def answer(request: Any, context: Any) -> Any:
        return context.abort_with_status(TooMany(0.01))

    stand_in.answer = answer
    with HQSam(serve()) as sam, pytest.raises(TooManyRequestsError, match="wait") as refusal:
        sam.open(noise)
    assert refusal.value.retry_after_s == 0.01


class TooMany(grpc.Status):  # type: ignore[misc]
    """A refusal that says how long to wait."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    details = "wait"

    def __init__(self, seconds: float) -> None:
        self.trailing_metadata = ((contract.RETRY_AFTER_KEY, str(seconds)),)
