"""The serverless function; with the real `nuclio-sdk`, and the agent, in its own tests."""

from __future__ import annotations

import base64
import json
import logging
from types import SimpleNamespace
from typing import Any

import main as function
import numpy as np
from hqsam_client import HQSam
from hqsam_testing.coins import COINS

BOX = (242, 92, 297, 145)


def call(sam: HQSam, **prompts: Any) -> Any:
    """Call the function; its answer has `status_code` and `body`."""
    frame = base64.b64encode(COINS.read_bytes()).decode()
    body = {"image": frame, "pos_points": [], "neg_points": [], "obj_bbox": None, **prompts}
    context = SimpleNamespace(
        user_data=SimpleNamespace(sam=sam),
        logger=SimpleNamespace(warn=logging.warning),
        Response=lambda **fields: SimpleNamespace(**fields),
    )
    return function.handler(context, SimpleNamespace(body=body))


def test_the_answer_is_the_part_of_the_mask_that_holds_the_object(sam: HQSam) -> None:
    answer = call(sam, obj_bbox=[list(BOX[:2]), list(BOX[2:])])
    assert answer.status_code == 200
    body = json.loads(answer.body)
    left, top, right, bottom = body["bounds"]
    found = np.zeros((303, 384), np.bool_)
    found[top : bottom + 1, left : right + 1] = body["mask"]
    assert np.array_equal(found, sam.segment(COINS, box=BOX).array)


def test_a_server_that_is_away_and_a_bad_request_have_codes_of_their_own(
    sam: HQSam, nobody: str
) -> None:
    refused = call(sam, pos_points=[[999, 1]])
    assert (refused.status_code, "outside the image" in refused.body) == (400, True)
    with HQSam(nobody) as away:
        unanswered = call(away, pos_points=[[1, 1]])
    assert (unanswered.status_code, f"no answer from {nobody}" in unanswered.body) == (503, True)


def test_an_empty_mask_is_one_background_pixel() -> None:
    empty = SimpleNamespace(box=None, array=np.zeros((5, 7), np.bool_))
    expected = {"mask": [[0]], "bounds": [0, 0, 0, 0]}
    assert function.crop(empty) == expected  # type: ignore[arg-type]
