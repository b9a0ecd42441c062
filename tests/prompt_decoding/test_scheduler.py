"""Who is decoded when, on a decoder that waits until it is told to go on."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
from hqsam_client.contract import PROMPT_DECODER
from hqsam_server.errors import OverloadedError, RequestCancelledError, ServingError
from hqsam_server.models.prompt_checks import PromptLimits, Prompts
from hqsam_server.prompt_decoding.decoder import Job, Lanes, PlacedImage
from hqsam_server.prompt_decoding.scheduler import Request, Scheduler
from hqsam_server.runtime.config import Arrays
from hqsam_server.store.entry import Embedding
from hqsam_testing.waiting import TIMEOUT_S

SHAPES = {spec.name: (1, *spec.shape[1:]) for spec in PROMPT_DECODER.outputs}
FAILS = 666.0


class Image(NamedTuple):
    nbytes: int = 0


class Call(NamedTuple):
    """A call of the decoder: the first x coordinate of each prompt, and how it is decoded."""

    prompts: list[float]
    narrow: bool
    nice: int
    go_on: threading.Event


@dataclass
class Decoder:
    lanes: Lanes
    calls: queue.Queue[Call] = field(default_factory=queue.Queue)
    held: list[Call] = field(default_factory=list)
    is_over: bool = False

    def place(self, embedding: Embedding) -> PlacedImage:
        return Image()

    def run(self, jobs: Sequence[Job], requested: Collection[str], *, narrow: bool) -> list[Arrays]:
        numbers = [float(job.point_coords[0, 0, 0]) for job in jobs]
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        call = Call(numbers, narrow, nice, threading.Event())
        self.held.append(call)
        self.calls.put(call)
        assert self.is_over or call.go_on.wait(TIMEOUT_S)
        if FAILS in numbers:
            raise RuntimeError("the runtime broke")
        return [
            {name: np.full(SHAPES[name], number, np.float32) for name in requested}
            for number in numbers
        ]

    def next(self) -> Call:
        """Wait for the next call."""
        return self.calls.get(timeout=TIMEOUT_S)

    def go_on(self) -> None:
        """Let this call and all later ones go on."""
        self.is_over = True
        for call in self.held:
            call.go_on.set()


class Bench:
    def __init__(self, lanes: Lanes, max_bytes: int = 2**30) -> None:
        self.decoder = Decoder(lanes)
        self.scheduler = Scheduler(self.decoder, max_waiting=5, max_bytes=max_bytes)
        self.cancelled: set[str] = set()

    def close(self) -> None:
        self.decoder.go_on()
        self.scheduler.close()

    def submit(self, *numbers: float, caller: str = "") -> Future[Arrays]:
        """Submit a request of prompts with these first x coordinates."""
        coords = np.zeros((len(numbers), 1, 2), np.float32)
        coords[:, 0, 0] = numbers
        inputs = {"point_coords": coords, "point_labels": np.ones((len(numbers), 1), np.float32)}
        answer: Future[Arrays] = Future()

        def reply(result: Arrays | Exception) -> None:
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self.scheduler.submit(
            Request(
                caller,
                Image,
                Prompts.checked(inputs, PromptLimits()),
                ["iou_predictions", "low_res_masks"],
                reply,
                lambda: caller in self.cancelled,
            )
        )
        return answer


@pytest.fixture
def two_cores() -> Iterator[Bench]:
    bench = Bench(Lanes(wide=1, narrow=2, together=1))
    yield bench
    bench.close()


@pytest.fixture
def gpu() -> Iterator[Bench]:
    bench = Bench(Lanes(wide=1, narrow=0, together=3))
    yield bench
    bench.close()


def numbers(answer: Future[Arrays]) -> list[float]:
    """Return what the prompts of a request were answered with."""
    outputs = answer.result(TIMEOUT_S)
    assert outputs.keys() == {"iou_predictions", "low_res_masks"}
    return [float(value) for value in outputs["iou_predictions"][:, 0]]


def test_a_lone_prompt_has_all_threads(two_cores: Bench) -> None:
    answer = two_cores.submit(1)
    call = two_cores.decoder.next()
    assert (call.prompts, call.narrow) == ([1], False)
    call.go_on.set()
    assert numbers(answer) == [1]


def test_as_many_prompts_as_threads_run_beside_each_other(two_cores: Bench) -> None:
    answers = [two_cores.submit(1)]
    first = two_cores.decoder.next()
    answers += [two_cores.submit(number) for number in (2, 3, 4)]
    assert two_cores.decoder.calls.empty()  # the first one has all threads
    first.go_on.set()
    beside = [two_cores.decoder.next(), two_cores.decoder.next()]
    assert [(call.prompts, call.narrow) for call in beside] == [([2], True), ([3], True)]
    beside[0].go_on.set()
    last = two_cores.decoder.next()
    assert (last.prompts, last.narrow) == ([4], True)
    for call in (beside[1], last):
        call.go_on.set()
    assert [numbers(answer) for answer in answers] == [[1], [2], [3], [4]]


def test_a_click_waits_for_one_prompt_of_another_callers_many(two_cores: Bench) -> None:
    many = two_cores.submit(*range(10, 20), caller="many")
    running = [two_cores.decoder.next(), two_cores.decoder.next()]
    click = two_cores.submit(1, caller="one")
    running.pop(0).go_on.set()
    after = two_cores.decoder.next()
    assert after.prompts == [1]
    for call in (*running, after):
        call.go_on.set()
    assert numbers(click) == [1]
    two_cores.decoder.go_on()
    assert numbers(many) == [*range(10, 20)]


@pytest.mark.parametrize("caller", ["many", "one"])
def test_a_click_waits_for_no_work_in_bulk(two_cores: Bench, caller: str) -> None:
    many = two_cores.submit(*range(100, 120), caller="many")
    running = [two_cores.decoder.next(), two_cores.decoder.next()]
    assert [(call.narrow, call.nice) for call in running] == [(True, 19), (True, 19)]
    click = two_cores.submit(1, caller=caller)
    beside = two_cores.decoder.next()
    assert beside.prompts == [1]
    assert (beside.narrow, beside.nice) == (False, os.getpriority(os.PRIO_PROCESS, 0))
    beside.go_on.set()
    assert numbers(click) == [1]
    two_cores.decoder.go_on()
    assert numbers(many) == [*range(100, 120)]


def test_many_small_requests_of_a_caller_are_work_in_bulk_too(two_cores: Bench) -> None:
    answers = [two_cores.submit(*range(8), caller="many") for _ in range(3)]
    calls = [two_cores.decoder.next() for _ in range(4)]
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    assert sorted(call.nice for call in calls) == [normal, normal, 19, 19]
    two_cores.decoder.go_on()
    assert [numbers(answer) for answer in answers] == [[*range(8)]] * 3


def test_prompts_of_several_requests_are_decoded_together(gpu: Bench) -> None:
    answers = [gpu.submit(1)]
    first = gpu.decoder.next()
    answers += [gpu.submit(2, 3, caller="a"), gpu.submit(4, caller="b")]
    first.go_on.set()
    together = gpu.decoder.next()
    assert together.prompts == [4, 2, 3]
    together.go_on.set()
    assert [numbers(answer) for answer in answers] == [[1], [2, 3], [4]]


def test_a_prompt_that_breaks_the_decoder_fails_no_neighbour(gpu: Bench) -> None:
    blocking = gpu.submit(1)
    first = gpu.decoder.next()
    well, broken = gpu.submit(2, caller="b"), gpu.submit(FAILS, caller="a")
    first.go_on.set()
    for expected in ([FAILS, 2], [FAILS], [2]):
        call = gpu.decoder.next()
        assert call.prompts == expected
        call.go_on.set()
    with pytest.raises(ServingError, match="the prompt decoder failed: the runtime broke"):
        broken.result(TIMEOUT_S)
    assert numbers(well) == [2]
    assert numbers(blocking) == [1]


def test_what_is_left_of_a_cancelled_request_is_not_decoded(two_cores: Bench) -> None:
    many = two_cores.submit(*range(10, 20), caller="many")
    running = [two_cores.decoder.next(), two_cores.decoder.next()]
    two_cores.cancelled.add("many")
    for call in running:
        call.go_on.set()
    with pytest.raises(RequestCancelledError):
        many.result(TIMEOUT_S)
    answer = two_cores.submit(1, caller="one")
    call = two_cores.decoder.next()
    assert call.prompts == [1]
    call.go_on.set()
    assert numbers(answer) == [1]


def test_a_request_beyond_the_limit_is_refused_and_the_others_are_answered(
    two_cores: Bench,
) -> None:
    answers = [two_cores.submit(number) for number in range(5)]
    with pytest.raises(OverloadedError, match="5 requests are waiting for masks, the limit is 5"):
        two_cores.submit(6)
    for _ in answers:
        two_cores.decoder.next().go_on.set()
    assert [numbers(answer) for answer in answers] == [[0], [1], [2], [3], [4]]


def test_large_requests_share_a_bound_in_bytes_and_clicks_are_taken_beside_them() -> None:
    mask = 4 * 256 * 256
    bench = Bench(Lanes(wide=1, narrow=0, together=1), max_bytes=10 * mask)
    answers = [bench.submit(*range(7))]
    with pytest.raises(OverloadedError, match=r"or send fewer prompts"):
        bench.submit(*range(4))
    answers.append(bench.submit(1))
    for _ in range(8):
        bench.decoder.next().go_on.set()
    assert [len(numbers(answer)) for answer in answers] == [7, 1]
    bench.close()


def test_what_was_taken_is_answered_before_the_scheduler_closes(two_cores: Bench) -> None:
    answers = [two_cores.submit(number) for number in range(3)]
    closing = threading.Thread(target=two_cores.scheduler.close)
    closing.start()
    for _ in answers:
        two_cores.decoder.next().go_on.set()
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    assert [numbers(answer) for answer in answers] == [[0], [1], [2]]
