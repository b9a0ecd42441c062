"""Masks are finished in turn, bounded, and not for nobody."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import pytest
from hqsam_client.shared.modes import choice
from hqsam_server.errors import BadRequestError, RequestCancelledError, ServingError
from hqsam_server.prompt_decoding.finishing import Finish, FinishedMasks, Finisher
from hqsam_server.runtime.config import Arrays
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray

OBJECT = np.ones((256, 256), np.float32)


class Submitted(NamedTuple):
    masks: FinishedMasks
    answer: Future[Arrays | Exception]


@pytest.fixture
def finisher() -> Iterator[Finisher]:
    finisher = Finisher(threads=1)
    yield finisher
    finisher.close()


def submit(
    finisher: Finisher,
    logits: NDArray[np.float32],
    count: int = 1,
    *,
    caller: str = "",
    outputs: tuple[str, ...] = ("mask_rle", "area"),
    size: tuple[int, int] = (30, 40),
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Submitted:
    answer: Future[Arrays | Exception] = Future()
    wanted = Finish(outputs, choice("hq"), size)
    masks = FinishedMasks(caller, wanted, [logits] * count, answer.set_result, is_cancelled)
    finisher.submit(masks)
    return Submitted(masks, answer)


def test_masks_are_finished_in_order(finisher: Finisher) -> None:
    answer = submit(finisher, OBJECT, 3).answer.result(TIMEOUT_S)
    assert isinstance(answer, dict)
    assert answer.keys() == {"mask_rle", "area"}
    assert answer["area"].tolist() == [1200] * 3


def test_callers_take_turns_mask_by_mask(finisher: Finisher) -> None:
    go_on = threading.Event()
    order: list[str] = []

    def turn(caller: str) -> bool:
        order.append(caller)
        assert go_on.wait(TIMEOUT_S)
        return False

    first = submit(finisher, OBJECT, 5, caller="a", is_cancelled=lambda: turn("a"))
    second = submit(finisher, OBJECT, 1, caller="b", is_cancelled=lambda: turn("b"))
    go_on.set()
    for submitted in (first, second):
        assert isinstance(submitted.answer.result(TIMEOUT_S), dict)
    assert order.index("b") <= 2


@pytest.mark.parametrize(("count", "is_bulk"), [(1, False), (16, False), (17, True)])
def test_many_masks_are_finished_at_the_priority_of_an_encode(
    finisher: Finisher, count: int, is_bulk: bool
) -> None:
    found: set[int] = set()

    def note() -> bool:
        found.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return False

    submit(finisher, OBJECT, count, is_cancelled=note).answer.result(TIMEOUT_S)
    assert found == {19 if is_bulk else os.getpriority(os.PRIO_PROCESS, 0)}


def test_nothing_more_is_finished_once_nobody_waits(finisher: Finisher) -> None:
    asked = iter([False, True])
    submitted = submit(finisher, OBJECT, 5, is_cancelled=lambda: next(asked))
    assert isinstance(submitted.answer.result(TIMEOUT_S), RequestCancelledError)
    finisher.close()
    assert submitted.masks.finished == 1


def test_masks_that_are_too_large_together_are_refused(finisher: Finisher) -> None:
    edges = np.where(np.indices((256, 256)).sum(axis=0) % 2, 1, -1).astype(np.float32)
    answer = submit(finisher, edges, 16, size=(2048, 2048), outputs=("mask_rle",)).answer
    refusal = answer.result(TIMEOUT_S)
    assert isinstance(refusal, BadRequestError)
    assert "more than 4194304 bytes, which is the limit for 16 prompts: ask for low_res_masks" in (
        str(refusal)
    )


def test_logits_that_are_no_numbers_are_a_failure_and_no_empty_mask(finisher: Finisher) -> None:
    answer = submit(finisher, np.full((256, 256), np.nan, np.float32)).answer
    assert isinstance(answer.result(TIMEOUT_S), ServingError)


def test_what_was_submitted_is_answered_before_the_end() -> None:
    finisher = Finisher(threads=1)
    answers = [submit(finisher, OBJECT, count).answer for count in (1, 9, 17)]
    finisher.close()
    assert all(isinstance(answer.result(0), dict) for answer in answers)
