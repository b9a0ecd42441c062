"""The masks of the whole system are those of the official implementation.

At full size, with the oracle's weights: from image files, through a running Triton in fp32, to
masks in pixels of the images.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from hqsam_client import AsyncHQSam, HQSam, Mask, contract
from hqsam_client.predictor import SamPredictor
from hqsam_server import Front, TritonServer, Tuning
from hqsam_testing.oracle import golden, images, prompts
from numpy.typing import NDArray
from PIL import Image

AGREEMENT = 0.999
LOGITS = 2e-3
IOU = 1e-3


@pytest.fixture(scope="module")
def server(vit_b_repository: Path) -> Iterator[TritonServer]:
    front = Front(open_models=(contract.HQ_SAM.name, contract.PROMPT_DECODER.name))
    with TritonServer(vit_b_repository, tuning=Tuning(precision="fp32"), front=front) as running:
        yield running


@pytest.fixture(scope="module")
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url) as client:
        yield client


def png(image: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(images.draw(*images.SIZES[image])).save(file, "PNG", compress_level=1)
    return file.getvalue()


def agreement(mask: NDArray[np.bool_], image: str, prompt: str) -> float:
    expected = golden.VIT_B.mask(image, prompt)
    assert mask.shape == expected.shape
    return float((mask == expected).mean())


def assert_is_golden(mask: Mask, image: str, prompt: str) -> None:
    assert agreement(mask.array, image, prompt) >= AGREEMENT
    logits = golden.VIT_B.array(image, prompt, "low_res_masks")[0]
    np.testing.assert_allclose(mask.low_res_logits, logits, atol=LOGITS)
    np.testing.assert_allclose(mask.iou, golden.VIT_B.array(image, prompt, "iou")[0], atol=IOU)


# One image is in `make test`, so that it compares real masks with the official ones.
@pytest.mark.parametrize(
    "image",
    ["landscape", *(pytest.param(it, marks=pytest.mark.slow) for it in ("shrink", "portrait"))],
)
def test_the_clients_masks_are_the_official_ones(sam: HQSam, image: str) -> None:
    opened = sam.open(png(image))
    for prompt, definition in prompts.PROMPTS.items():
        refine = opened.segment(**golden.pixels(image, "point")) if "refine" in definition else None
        mask = opened.segment(**golden.pixels(image, prompt), refine=refine)
        assert_is_golden(mask, image, prompt)


@pytest.mark.slow
def test_masks_of_an_array_are_those_of_its_file(sam: HQSam) -> None:
    opened = sam.open(images.draw(*images.SIZES["shrink"]))
    for prompt in ("point", "box"):
        assert_is_golden(opened.segment(**golden.pixels("shrink", prompt)), "shrink", prompt)


@pytest.mark.slow
def test_masks_of_a_batch_are_the_official_ones(sam: HQSam) -> None:
    names = [name for name, prompt in prompts.PROMPTS.items() if "refine" not in prompt]
    cases = [golden.pixels("landscape", name) for name in names]
    masks = sam.open(png("landscape")).segment(
        points=[case.get("points") for case in cases],
        labels=[case.get("labels") for case in cases],
        boxes=[case.get("box") for case in cases],
    )
    for name, mask in zip(names, masks, strict=True):
        assert_is_golden(mask, "landscape", name)


@pytest.mark.slow
def test_masks_of_the_async_client_are_the_official_ones(server: TritonServer) -> None:
    async def segment() -> Mask:
        async with AsyncHQSam(server.grpc_url) as sam:
            image = await sam.open(png("portrait"))
            mask = await image.segment(**golden.pixels("portrait", "box_and_point"))
            assert isinstance(mask, Mask)
            return mask

    assert_is_golden(asyncio.run(segment()), "portrait", "box_and_point")


@pytest.mark.slow
def test_masks_of_the_drop_in_predictor_are_the_official_ones(sam: HQSam) -> None:
    predictor = SamPredictor(sam)
    predictor.set_image(images.draw(*images.SIZES["portrait"]))
    case = golden.pixels("portrait", "six_points")
    masks, iou, logits = predictor.predict(
        point_coords=np.array(case["points"]),
        point_labels=np.array(case["labels"]),
        multimask_output=False,
        hq_token_only=True,
    )
    assert masks.shape == (1, 517, 333)
    assert agreement(masks[0], "portrait", "six_points") >= AGREEMENT
    np.testing.assert_allclose(iou, golden.VIT_B.array("portrait", "six_points", "iou"), atol=IOU)
    expected = golden.VIT_B.array("portrait", "six_points", "low_res_masks")
    np.testing.assert_allclose(logits, expected, atol=LOGITS)


@pytest.mark.slow
def test_the_stateless_ensemble_gives_the_official_logits(server: TritonServer) -> None:
    # 600 x 400 pixels become 1024 x 683 in the input frame.
    points = np.array(golden.pixels("landscape", "point")["points"]) * (1024 / 600, 683 / 400)
    arrays: dict[str, NDArray[Any]] = {
        "encoded_image": np.frombuffer(png("landscape"), np.uint8),
        "point_coords": np.array([[*points, (0.0, 0.0)]], np.float32),
        "point_labels": np.array([[1.0, -1.0]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    inputs = []
    for spec in contract.HQ_SAM.inputs:
        tensor = tritonclient.grpc.InferInput(spec.name, arrays[spec.name].shape, spec.dtype)
        inputs.append(tensor.set_data_from_numpy(arrays[spec.name]))
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        result = client.infer("hq_sam", inputs, client_timeout=300.0)
    np.testing.assert_array_equal(result.as_numpy("original_size"), (400, 600))
    expected = golden.VIT_B.array("landscape", "point", "low_res_masks")
    np.testing.assert_allclose(result.as_numpy("low_res_masks")[0], expected, atol=LOGITS)
    assert np.shape(result.as_numpy("masks")) == (1, 1, 1024, 1024)


def test_a_running_server_reports_the_contract(server: TritonServer) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for spec in contract.MODELS:
            metadata = client.get_model_metadata(spec.name)
            for kind, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
                reported = [(t.name, t.datatype, tuple(t.shape)) for t in getattr(metadata, kind)]
                assert reported == [(t.name, t.dtype, t.shape) for t in tensors]
