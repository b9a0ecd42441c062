"""The sync client against a running server."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hqsam_client import EmbedResult, HQSam, ImageError, Mask
from hqsam_client.shared import prompt_encoding
from hqsam_client.shared.protocol import Call, Choice, Flow, read_tensors, segment_call
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2

POINTS = [(105, 90), (216, 110), (150, 30), (10, 190)]


def close(mask: Mask, other: Mask) -> bool:
    """Tell whether two masks have the same logits, up to the order of additions."""
    return np.allclose(mask.low_res_logits, other.low_res_logits, atol=1e-3)


def reference(
    sam: HQSam,
    photo: bytes,
    points: list[tuple[float, float]],
    labels: list[int],
    earlier: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Segment an image of 300 x 200 pixels through the stateless ensemble: [256, 256] logits."""
    in_frame = np.array([*points, (0, 0)], np.float32) * (1024 / 300, 683 / 200)
    inputs: dict[str, NDArray[Any]] = {
        "encoded_image": np.frombuffer(photo, np.uint8),
        "point_coords": in_frame[None].astype(np.float32),
        "point_labels": np.array([[*labels, -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32) if earlier is None else earlier,
        "has_mask_input": np.full(1, earlier is not None, np.float32),
    }
    request = service_pb2.ModelInferRequest(model_name="hq_sam")
    for name, tensor in inputs.items():
        dtype = "UINT8" if tensor.dtype == np.uint8 else "FP32"
        shape = (1, 1, 256, 256) if name == "mask_input" else tensor.shape
        request.inputs.add(name=name, datatype=dtype, shape=shape)
        request.raw_input_contents.append(tensor.tobytes())
    request.outputs.add(name="low_res_masks")
    response = sam.run(one_call(Call(request, "", encodes=True)))
    return np.asarray(read_tensors(response, "low_res_masks")["low_res_masks"][0, 0], np.float32)


def one_call(call: Call) -> Flow[Any]:
    """Return the response of a single call."""
    return (yield call)


def test_a_click_gives_the_mask_that_the_whole_model_gives(sam: HQSam, photo: bytes) -> None:
    mask = sam.open(photo).segment(points=[(105, 90)])
    assert mask.size == (200, 300)
    assert mask.array.shape == (200, 300)
    assert mask.array.dtype == np.bool_
    expected = reference(sam, photo, [(105, 90)], [1])
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


def test_modes_add_sams_masks(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    hq = image.segment(points=POINTS)
    both = image.segment(points=POINTS, mode="hq+sam")
    best = image.segment(points=POINTS, mode="best")
    prompts = prompt_encoding.build(image.size, points=POINTS)
    call = segment_call(image.image_id, prompts, Choice(multimask=True, hq_only=False))
    response = sam.run(one_call(call))
    answer = read_tensors(response, "low_res_masks", "sam_masks", "sam_iou_predictions")
    of_sam, scores = answer["sam_masks"][0], answer["sam_iou_predictions"][0]
    winner = 1 + int(scores[1:].argmax())
    assert np.abs(of_sam).max(axis=(1, 2)).min() > 0.01, "nothing to add"
    np.testing.assert_allclose(hq.low_res_logits, answer["low_res_masks"][0, 0], atol=2e-3)
    np.testing.assert_allclose(both.low_res_logits, hq.low_res_logits + of_sam[0], atol=2e-3)
    np.testing.assert_allclose(best.low_res_logits, hq.low_res_logits + of_sam[winner], atol=2e-3)
    assert both.iou == pytest.approx(hq.iou, abs=1e-4)
    assert best.iou == pytest.approx(float(scores[winner]), abs=1e-4)


def test_refining_starts_from_the_earlier_mask(sam: HQSam, photo: bytes) -> None:
    image = sam.open(photo)
    first = image.segment(points=[(105, 90)])
    prompt: list[tuple[float, float]] = [(105, 90), (10, 190)]
    refined = image.segment(points=prompt, labels=[1, 0], refine=first)
    with_mask = reference(sam, photo, prompt, [1, 0], first.low_res_logits)
    without = reference(sam, photo, prompt, [1, 0])
    assert np.abs(with_mask - without).max() > 0.02, "the model ignores the mask"
    np.testing.assert_allclose(refined.low_res_logits, with_mask, atol=2e-3)
    clicks: list[list[tuple[float, float]]] = [prompt, prompt]
    in_batch, plain = image.segment(clicks, [[1, 0], [1, 0]], refine=[first, None])
    np.testing.assert_allclose(in_batch.low_res_logits, with_mask, atol=2e-3)
    np.testing.assert_allclose(plain.low_res_logits, without, atol=2e-3)


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
