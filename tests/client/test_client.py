"""The sync client against a running server."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hqsam_client import EmbedResult, HQSam, ImageError, Mask, PromptError
from hqsam_client.shared.modes import Mode
from hqsam_server import TritonServer
from hqsam_testing.api import Api
from numpy.typing import NDArray
from PIL import Image

POINTS = [(105, 90), (216, 110), (150, 30), (10, 190)]


def close(mask: Mask, other: Mask) -> bool:
    """Tell whether two masks have the same logits, up to the order of additions."""
    return np.allclose(mask.low_res_logits, other.low_res_logits, atol=1e-3)


IN_FRAME = np.array([1024 / 300, 683 / 200])
"""Scale of a photo to the input frame, (x, y)."""


def reference(
    api: Api,
    photo: bytes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[int],
    refine: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Segment through the stateless ensemble, which stores nothing: logits [256, 256]."""
    mask = np.zeros((256, 256), np.float32) if refine is None else refine
    inputs: dict[str, NDArray[Any]] = {
        "encoded_image": np.frombuffer(photo, np.uint8),
        "point_coords": np.array([[*points, (0, 0)]] * IN_FRAME, np.float32),
        "point_labels": np.array([[*labels, -1]], np.float32),
        "mask_input": mask[None, None],
        "has_mask_input": np.full(1, refine is not None, np.float32),
    }
    return np.asarray(api.infer("hq_sam", inputs, ["low_res_masks"])["low_res_masks"][0, 0])


@pytest.fixture
def api(server: TritonServer) -> Iterator[Api]:
    with Api(server) as api:
        yield api


def test_a_click_gives_the_mask_that_the_whole_model_gives(
    sam: HQSam, api: Api, photo: bytes
) -> None:
    mask = sam.open(photo).segment(points=[(105, 90)])
    assert mask.size == (200, 300)
    assert mask.array.shape == (200, 300)
    assert mask.array.dtype == np.bool_
    expected = reference(api, photo, [(105, 90)], [1])
    np.testing.assert_allclose(mask.low_res_logits, expected, atol=2e-3)


def test_an_image_is_encoded_once(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    assert image.embed() is True
    assert sam.open(photo).image_id == image.image_id


def test_segment_without_open_sends_the_image_when_it_must(sam: HQSam, photo: bytes) -> None:
    first = sam.segment(photo, points=[(105, 90)])
    again = sam.segment(photo, points=[(105, 90)])
    assert close(first, again)


def test_an_evicted_image_is_embedded_again_unnoticed(
    sam: HQSam, photo: bytes, forget: Callable[[str], None]
) -> None:
    image = sam.open(photo)
    before = image.segment(points=POINTS)
    forget(image.image_id)
    assert close(image.segment(points=POINTS), before)


def test_an_array_gives_the_mask_of_the_file(
    sam: HQSam, array: NDArray[np.uint8], photo: bytes
) -> None:
    from_file = sam.segment(photo, points=POINTS)
    assert close(sam.segment(array, points=POINTS), from_file)
    assert close(sam.segment(Image.fromarray(array), points=POINTS), from_file)


def test_a_large_image_gives_one_mask_however_it_is_sent(sam: HQSam, photo: bytes) -> None:
    large = Image.open(io.BytesIO(photo)).resize((2400, 1600))
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    box = (500, 400, 1300, 1200)
    as_file = sam.segment(buffer.getvalue(), box=box)
    as_array = sam.segment(np.asarray(large), box=box)
    as_resized = sam.segment(buffer.getvalue(), box=box, upload="resized")
    assert as_file.array.shape == as_array.array.shape == as_resized.array.shape == (1600, 2400)
    assert close(as_array, as_file)
    assert close(as_resized, as_file)


def test_coordinates_are_those_of_the_upright_image(sam: HQSam, photo: bytes) -> None:
    upright = Image.open(io.BytesIO(photo))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    lying, standing = io.BytesIO(), io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(lying, "PNG", exif=exif)
    upright.save(standing, "PNG")
    turned = sam.segment(lying.getvalue(), points=[(280, 20)])
    assert turned.size == (200, 300)
    assert close(turned, sam.segment(standing.getvalue(), points=[(280, 20)]))


def test_prompts_in_one_request_give_what_they_give_alone(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    scattered = [(216, 110), (150, 30), (10, 190)]
    together = image.segment(
        [None, [(105, 90)], scattered],
        [None, None, [1, 0, 1]],
        boxes=[(20, 30, 200, 180), None, (100, 10, 290, 150)],
    )
    assert len(together) == 3
    assert close(together[0], image.segment(box=(20, 30, 200, 180)))
    assert close(together[1], image.segment([(105, 90)]))
    assert close(together[2], image.segment(scattered, [1, 0, 1], (100, 10, 290, 150)))
    ragged = image.segment([[(105, 90)], scattered], [None, [1, 0, 1]])
    assert close(ragged[0], together[1])
    assert close(ragged[1], image.segment(scattered, [1, 0, 1]))


def test_modes_add_sams_masks(sam: HQSam, api: Api, photo: bytes) -> None:
    image = sam.open(photo)
    prompt = {
        "point_coords": (np.array([POINTS]) * IN_FRAME).astype(np.float32),
        "point_labels": np.ones((1, 4), np.float32),
    }
    outputs = {name: array[0] for name, array in api.segment(image.image_id, prompt).items()}
    best = 1 + int(outputs["sam_iou_predictions"][1:].argmax())
    for mode, sam_mask in (("hq", None), ("hq+sam", 0), ("best", best)):
        mask = image.segment(points=POINTS, mode=mode)  # type: ignore[call-overload]
        expected = outputs["low_res_masks"][0]
        iou = outputs["iou_predictions"][0]
        if sam_mask is not None:
            expected = expected + outputs["sam_masks"][sam_mask]
            iou = outputs["sam_iou_predictions"][sam_mask]
        np.testing.assert_allclose(mask.low_res_logits, expected, atol=1e-3)
        assert mask.iou == pytest.approx(iou, abs=1e-4)


@pytest.mark.parametrize("mode", ["hq", "hq+sam", "best"])
def test_without_logits_the_server_finishes_the_same_masks(
    sam: HQSam, photo: bytes, mode: Mode
) -> None:
    image = sam.open(photo)
    boxes = [(20, 30, 200, 180), (100, 10, 290, 150)]
    expected = image.segment(boxes=boxes, mode=mode)
    for mask, other in zip(
        image.segment(boxes=boxes, mode=mode, logits=False), expected, strict=True
    ):
        assert not mask.has_logits
        assert (mask.rle(), mask.box, mask.area) == (other.rle(), other.box, other.area)
        assert np.array_equal(mask.array, other.array)
        assert mask.iou == pytest.approx(other.iou, abs=1e-4)
        assert mask.overlay().size == (300, 200)
    one = sam.segment(photo, box=boxes[0], mode=mode, logits=False)
    assert one.rle() == expected[0].rle()
    with pytest.raises(PromptError, match=r"a mask without logits, expected one .* logits=True"):
        image.segment(box=boxes[0], refine=one)


def test_masks_of_an_image_that_is_sent_shrunk_are_finished_at_its_full_size(sam: HQSam) -> None:
    image = sam.open(np.tile(np.arange(1300, dtype=np.uint8)[:, None], (900, 1, 3)))
    mask = image.segment(points=[(600, 400)], logits=False)
    assert not mask.has_logits
    assert mask.size == (900, 1300)
    assert mask.rle() == image.segment(points=[(600, 400)]).rle()


def test_refining_starts_from_the_earlier_mask(sam: HQSam, api: Api, photo: bytes) -> None:
    image = sam.open(photo)
    first = image.segment(points=[(105, 90)])
    prompt: list[tuple[float, float]] = [(105, 90), (10, 190)]
    refined = image.segment(points=prompt, labels=[1, 0], refine=first)
    expected = [reference(api, photo, prompt, [1, 0], it) for it in (first.low_res_logits, None)]
    np.testing.assert_allclose(refined.low_res_logits, expected[0], atol=2e-3)
    clicks: list[list[tuple[float, float]]] = [prompt, prompt]
    in_batch = image.segment(clicks, [[1, 0], [1, 0]], refine=[first, None])
    for mask, logits in zip(in_batch, expected, strict=True):
        np.testing.assert_allclose(mask.low_res_logits, logits, atol=2e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.1  # far beyond the tolerance


def test_prompts_over_the_edge_of_the_image_are_answered(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    over, _ = image.segment(boxes=[(-30.5, 20, 330.25, 230), (0, 0, 9, 9)])
    assert over.size == (200, 300)
    assert image.segment(points=[(-0.5, 200)]).size == (200, 300)


def test_many_threads_share_a_client_and_get_their_own_results(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    alone = [image.segment(points=[point]) for point in POINTS]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: image.segment(points=[POINTS[i % 4]]), range(12)))
    assert all(close(mask, alone[i % 4]) for i, mask in enumerate(results))


def test_images_are_embedded_ahead_of_time_and_failures_told_apart(
    sam: HQSam, photo: bytes, array: NDArray[np.uint8]
) -> None:
    sam.open(photo)
    seen: list[EmbedResult] = []
    results = sam.embed([photo, b"nothing", array], concurrency=2, progress=seen.append)
    known, failed, fresh = results
    assert known.already_stored
    assert known.error is None
    assert isinstance(failed.error, ImageError)
    assert failed.image_id is None
    assert fresh.error is None
    assert not fresh.already_stored
    assert fresh.image_id == sam.open(array).image_id
    assert sorted(map(id, seen)) == sorted(map(id, results))
