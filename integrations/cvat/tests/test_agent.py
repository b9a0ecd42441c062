"""The function in the real agent of `cvat-cli`, and in the interfaces of the real `cvat-sdk`.

They need ``HQSAM_URL``, the address of a server with the small model; see ../../README.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import cvat_sdk.auto_annotation as cvataa
import numpy as np
import PIL.Image
import pytest
from cvat_sdk.masks import decode_mask
from fake_cvat import FUNCTION, FakeCvat, serving
from hqsam_client import HQSam
from hqsam_cvat import agent

COINS = Path(__file__).parents[3] / "demo" / "coins.png"
COIN, BESIDE, BOX = (335, 44), (346, 92), (242, 92, 297, 145)
SIZE = (384, 303)
TIMEOUT_S = 300
MODULE = ("--function-module", "hqsam_cvat.agent")


@pytest.fixture
def sam() -> Iterator[HQSam]:
    with HQSam(os.environ["HQSAM_URL"]) as client:
        yield client


@pytest.fixture
def cvat() -> Iterator[FakeCvat]:
    with serving(FakeCvat(COINS.read_bytes(), SIZE)) as server:
        yield server


def cvat_cli(
    cvat: FakeCvat, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command against the server."""
    return subprocess.run(
        [sys.executable, "-m", "cvat_cli", "--server-host", cvat.url, "function", *arguments],
        env={**os.environ, "CVAT_ACCESS_TOKEN": "t", **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def bitmap(body: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the mask of an answer of the agent."""
    (shape,) = body["shapes"]
    assert shape["type"] == "mask"
    return decode_mask(shape["points"], image_width=SIZE[0], image_height=SIZE[1])


def test_an_agent_answers_with_the_masks_that_the_client_gets(cvat: FakeCvat, sam: HQSam) -> None:
    created = cvat_cli(cvat, "create-native", "HQ-SAM", *MODULE)
    assert created.stdout.strip() == str(FUNCTION), created.stderr
    assert cvat.function["kind"] == "interactor"
    assert (cvat.function["min_pos_points"], cvat.function["min_neg_points"]) == (0, 0)
    assert cvat.function["startswith_box_optional"] is True

    # CVAT counts from the edge: (x + 0.7, y + 0.7) is in the lower right half of the pixel.
    inside, beside = [[it + 0.7 for it in point] for point in (COIN, BESIDE)]
    cvat.ask([inside], [], [])
    cvat.ask([inside], [beside], [])
    cvat.ask([], [], [list(BOX[:2]), list(BOX[2:])])
    ran = cvat_cli(cvat, "run-agent", str(FUNCTION), *MODULE, "--burst")
    assert ran.returncode == 0, ran.stderr

    image = sam.open(PIL.Image.open(COINS))
    expected = [
        image.segment([COIN]), image.segment([COIN, BESIDE], [1, 0]), image.segment(box=BOX),
    ]  # fmt: skip
    assert [action for action, _ in cvat.results] == ["complete"] * 3, ran.stderr
    for (_, body), mask in zip(cvat.results, expected, strict=True):
        assert np.array_equal(bitmap(body), mask.array)
    # One download and one encoding for all clicks on a frame.
    assert cvat.frames_sent == 1


def test_the_annotator_is_told_what_is_wrong(cvat: FakeCvat) -> None:
    assert cvat_cli(cvat, "create-native", "HQ-SAM", *MODULE).returncode == 0
    cvat.ask([], [[1, 1]], [])
    cvat.ask([[900, 1]], [], [])
    ran = cvat_cli(cvat, "run-agent", str(FUNCTION), *MODULE, "--burst")
    assert ran.returncode == 0, ran.stderr
    (first, empty), (second, outside) = cvat.results
    assert (first, second) == ("fail", "fail")
    assert "draw a box around it" in empty["exc_info"]
    assert "outside the image" in outside["exc_info"]


def test_without_a_server_the_annotator_is_told_where_it_was_expected(cvat: FakeCvat) -> None:
    assert cvat_cli(cvat, "create-native", "HQ-SAM", *MODULE).returncode == 0
    cvat.ask([list(COIN)], [], [])
    parameters = ("-p", "url=str:127.0.0.1:1")
    ran = cvat_cli(cvat, "run-agent", str(FUNCTION), *MODULE, "--burst", *parameters)
    assert ran.returncode == 0, ran.stderr
    ((action, body),) = cvat.results
    assert action == "fail"
    assert "no answer from 127.0.0.1:1: nothing listens there" in body["exc_info"]


@attrs.frozen
class Prompts(cvataa.InteractionPrompts):
    pos_points: tuple[tuple[float, float], ...] = ()
    neg_points: tuple[tuple[float, float], ...] = ()
    bounding_box: tuple[tuple[float, float], tuple[float, float]] | None = None


class Context(cvataa.InteractionFunctionContext):
    pass


def test_a_function_has_a_mode_and_segments_parts_of_frames(sam: HQSam) -> None:
    function = agent.create(mode="best")
    part = PIL.Image.open(COINS).convert("RGB").crop((200, 0, 384, 160))
    frame = function.preprocess_image(Context(), part)
    (shape,) = function.detect(Context(), frame, Prompts(pos_points=((135.0, 44.0),)))
    found = decode_mask(shape.points, image_width=184, image_height=160)
    assert np.array_equal(found, sam.segment(part, [(135, 44)], mode="best").array)
