"""Light HQ-SAM's masks are those of the official implementation.

At full size, with the oracle's weights: from image files, through a running Triton in fp32, to
masks in pixels of the images.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hqsam_client import HQSam, contract, server_status
from hqsam_client.shared import prompt_encoding
from hqsam_client.shared.modes import Mode, choice, combine
from hqsam_export import checkpoint, onnx_files, repository
from hqsam_export.modeling import HQSamModel
from hqsam_server import TritonServer, Tuning
from hqsam_server.launcher import repository_view
from hqsam_server.models.preprocess import Limits
from hqsam_testing import rebuilt
from hqsam_testing.oracle import golden, images, prompts
from hqsam_testing.preprocess import preprocess
from numpy.typing import NDArray
from PIL import Image

pytestmark = pytest.mark.slow

AGREEMENT = 0.999
LOGITS = 2e-3
IOU = 1e-3


@pytest.fixture(scope="module")
def sam(light_repository: Path) -> Iterator[HQSam]:
    tuning = Tuning(precision="fp32")
    with TritonServer(light_repository, tuning=tuning) as server, HQSam(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def model() -> HQSamModel:
    return checkpoint.build_model(rebuilt.state_dict(rebuilt.LIGHT))


def png(image: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(images.draw(*images.SIZES[image])).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.mark.parametrize("image", images.SIZES)
def test_the_clients_masks_are_the_official_ones(sam: HQSam, image: str) -> None:
    opened = sam.open(png(image))
    for prompt, definition in prompts.PROMPTS.items():
        refine = opened.segment(**golden.pixels(image, "point")) if "refine" in definition else None
        mask = opened.segment(**golden.pixels(image, prompt), refine=refine)
        assert (mask.array == golden.LIGHT.mask(image, prompt)).mean() >= AGREEMENT
        logits = golden.LIGHT.array(image, prompt, "low_res_masks")[0]
        np.testing.assert_allclose(mask.low_res_logits, logits, atol=LOGITS)
        iou = golden.LIGHT.array(image, prompt, "iou")[0]
        np.testing.assert_allclose(mask.iou, iou, atol=IOU)


@pytest.mark.parametrize("mode", ["hq", "hq+sam", "best"])
def test_each_mode_combines_the_masks_that_the_model_computes(
    sam: HQSam, model: HQSamModel, mode: Mode
) -> None:
    case = golden.pixels("portrait", "box_and_point")
    mask = sam.open(png("portrait")).segment(**case, mode=mode)
    logits = combined(model, png("portrait"), case, mode)
    np.testing.assert_allclose(mask.low_res_logits, logits, atol=LOGITS)
    assert ((mask.low_res_logits > 0) == (logits > 0)).mean() >= AGREEMENT


def combined(
    model: HQSamModel, file: bytes, case: dict[str, Any], mode: Mode
) -> NDArray[np.float32]:
    """Return the low-resolution logits [256, 256] that PyTorch computes in a mode."""
    image, size = preprocess(file, Limits())
    prompt = prompt_encoding.build((int(size[0]), int(size[1])), **case)
    with torch.no_grad():
        embeddings, interm = model.image_encoder(torch.from_numpy(image.copy()))
        masks, sam, iou = model.decode(
            embeddings,
            model.mask_decoder.hq_features(embeddings, interm),
            torch.from_numpy(prompt.coords),
            torch.from_numpy(prompt.labels),
            torch.zeros(1, 1, 256, 256),
            torch.zeros(1),
        )
    outputs = dict(
        zip(
            (it.name for it in contract.PROMPT_DECODER.outputs),
            (it.numpy() for it in (masks, iou[:, :1], sam, iou)),
            strict=True,
        )
    )
    logits: NDArray[np.float32] = combine(outputs, choice(mode))[0][0]
    return logits


def test_server_and_files_say_that_they_are_light(sam: HQSam, light_repository: Path) -> None:
    assert server_status.read(sam, 10.0, probe=False).model == "Light HQ-SAM"
    assert repository_view.member(light_repository) == "Light HQ-SAM"
    assert repository.read_manifest(light_repository)["model"] == "Light HQ-SAM"
    _, outputs = onnx_files.shapes(light_repository / "encoder" / "1" / "model.onnx")
    assert outputs[1].shape == (1, 1, 64, 64, 160)
    for name in ("encoder", "decoder", "features"):
        text = (light_repository / name / "config.pbtxt").read_text()
        assert "dims: [ 1, 1, 64, 64, 160 ]" in text
