"""`everything` of both clients and of the drop-in, against a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hqsam_client import AsyncHQSam, EverythingOptions, FoundMask, HQSam, OptionError
from hqsam_client.automatic_mask_generator import SamAutomaticMaskGenerator
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image

from tests.client.conftest import StandIn

ALL = EverythingOptions(
    points_per_side=5,
    points_per_batch=10,
    pred_iou_thresh=0.0,
    stability_score_thresh=0.0,
    box_nms_thresh=1.0,
)
"""Of a model of random weights, which finds nothing good. No mask is a duplicate."""


def records(masks: list[FoundMask]) -> list[dict[str, Any]]:
    return [mask.record("coco_rle") for mask in masks]


def test_every_point_gives_the_mask_of_a_click(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    steps: list[tuple[int, int]] = []
    masks = image.everything(ALL, progress=lambda *step: steps.append(step))
    assert steps == [(10, 25), (20, 25), (25, 25)]
    assert len(masks) == 25
    assert [mask.iou for mask in masks] == sorted((mask.iou for mask in masks), reverse=True)
    clicks = image.segment([[mask.point] for mask in masks], mode="best", logits=False)
    for mask, click in zip(masks, clicks, strict=True):
        assert mask.rle() == click.rle()
        assert mask.iou == pytest.approx(click.iou, abs=1e-6)
        assert not mask.has_logits
    assert masks[0].overlay().size == (300, 200)


def test_masks_of_low_scores_are_left_out(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    every = image.everything(ALL)
    stability = sorted(mask.stability_score for mask in every)[-5]
    good = image.everything(EverythingOptions(**{**vars(ALL), "stability_score_thresh": stability}))
    expected = [it for it in every if it.stability_score >= stability]
    assert len(expected) == 5
    assert records(good) == records(expected)


def test_sync_async_and_the_drop_in_give_the_same_records(
    sam: HQSam, url: str, array: NDArray[np.uint8]
) -> None:
    options = {**vars(ALL), "points_per_side": 3, "crop_n_layers": 1, "crop_nms_thresh": 1.0}
    large = np.asarray(Image.fromarray(array).resize((1500, 1100)))  # is sent shrunk
    expected = records(sam.open(large).everything(EverythingOptions(**options)))
    assert len(expected) >= 9

    async def check() -> list[FoundMask]:
        async with AsyncHQSam(url, timeout_s=TIMEOUT_S) as other:
            return await (await other.open(large)).everything(EverythingOptions(**options))

    assert records(asyncio.run(check())) == expected
    del options["mode"]
    generator = SamAutomaticMaskGenerator(sam, **options, output_mode="coco_rle")
    assert generator.generate(large) == expected


def test_the_drop_in_takes_the_single_mask_too(sam: HQSam, array: NDArray[np.uint8]) -> None:
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0
    )
    record = generator.generate(array, multimask_output=False)[0]
    (point,) = record["point_coords"]
    mask = sam.open(array).segment([point], mode="hq+sam", logits=False)
    assert np.array_equal(record["segmentation"], mask.array)


def test_the_drop_in_refuses_what_is_wrong_at_once(sam: HQSam) -> None:
    for arguments in ({"points_per_side": 0}, {"output_mode": "png"}):
        with pytest.raises(OptionError, match=f"{next(iter(arguments))} is"):
            SamAutomaticMaskGenerator(sam, **arguments)
    with pytest.raises(OptionError, match="model is of type str, expected an HQSam"):
        SamAutomaticMaskGenerator("vit_b")  # type: ignore[arg-type]


def test_an_interruption_ends_the_search(
    stand_in: StandIn, serve: Callable[..., str], photo: bytes
) -> None:
    class InterruptedError(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        raise InterruptedError

    usual = stand_in.answer
    stand_in.answer = lambda request, context: answer_finished(usual, request, context)
    options = EverythingOptions(points_per_side=20, points_per_batch=1)
    with HQSam(serve()) as sam, pytest.raises(InterruptedError):
        sam.open(photo).everything(options, progress=interrupt)
    # The one that was answered, and those under way and chosen meanwhile.
    assert 1 <= stand_in.models.count("segment") < 20


def test_a_batch_may_take_as_long_as_an_encode(
    stand_in: StandIn, serve: Callable[..., str], photo: bytes
) -> None:
    usual, left_s = stand_in.answer, []

    def answer(request: Any, context: Any) -> Any:
        if request.model_name == "segment":
            left_s.append(context.time_remaining())
        return answer_finished(usual, request, context)

    stand_in.answer = answer
    with HQSam(serve(), timeout_s=TIMEOUT_S, embed_timeout_s=10 * TIMEOUT_S) as sam:
        assert sam.open(photo).everything(EverythingOptions(points_per_side=1)) == []
    assert left_s[0] > 5 * TIMEOUT_S


def answer_finished(usual: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
    """Answer that every mask has too low scores."""
    if request.model_name != "segment":
        return usual(request, context)
    prompts = request.inputs[1].shape[0]
    response = usual(request, context)
    del response.outputs[:]
    del response.raw_output_contents[:]
    for name, dtype, shape, raw in (
        ("mask_rle", "BYTES", [prompts], bytes(4 * prompts)),
        ("stability_score", "FP32", [prompts], bytes(4 * prompts)),
        ("sam_iou_predictions", "FP32", [prompts, 4], bytes(16 * prompts)),
    ):
        response.outputs.add(name=name, datatype=dtype, shape=shape)
        response.raw_output_contents.append(raw)
    return response
