"""At full size, the exported files give what the official implementation gives.

ViT-B with the oracle's weights, in ONNX Runtime. Its encoder takes up to 7 GB and some
seconds per image, so it runs once for each image and precision.
"""

from __future__ import annotations

import gc
import io
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hqsam_client.contract import resized_size
from hqsam_export import onnx_files
from hqsam_export.exporter import SPECS, reduce
from hqsam_server.models.preprocess import Limits
from hqsam_testing.oracle import golden, images
from hqsam_testing.preprocess import preprocess
from PIL import Image

from tests.export import prompts
from tests.export.prompts import Arrays

pytestmark = pytest.mark.slow

EMBEDDINGS = 1e-3
LOGITS = 2e-3
IOU = 1e-3
FP16_MASK_IOU = 0.995

Embeddings = dict[str, Arrays]
"""Outputs of `encoder` and `features` by name of the image."""


def encode(repository: Path) -> Embeddings:
    """Run the encoder and `features` on every image, one after the other."""
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # memory goes back after each image
    path = repository / "encoder" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    embeddings = {}
    for name, size in images.SIZES.items():
        file = io.BytesIO()
        Image.fromarray(images.draw(*size)).save(file, "PNG", compress_level=1)
        image, _ = preprocess(file.getvalue(), Limits())
        outputs = session.run(["image_embeddings", "interm_embeddings"], {"image": image})
        arrays = dict(zip(("image_embeddings", "interm_embeddings"), outputs, strict=True))
        embeddings[name] = arrays | prompts.run(repository, "features", arrays)
    del session
    gc.collect()
    return embeddings


@pytest.fixture(scope="module")
def embeddings(vit_b_repository: Path) -> Embeddings:
    return encode(vit_b_repository)


@pytest.fixture(scope="module")
def fp16_repository(vit_b_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, lowered as `hqsam export --precision fp16` does."""
    folder = tmp_path_factory.mktemp("fp16") / "model_repository"
    for spec in SPECS:
        path = folder / spec.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        shutil.copyfile(vit_b_repository / spec.name / "1" / "model.onnx", path)
        reduce(path, spec, "fp16")
    return folder


def prompt(image: str, name: str) -> Arrays:
    """Return the inputs of the decoder for a case of the oracle."""
    width, height = images.SIZES[image]
    new_height, new_width = resized_size((height, width))
    case = golden.pixels(image, name)
    points, labels = list(case.get("points", [])), list(case.get("labels", []))
    if "box" in case:
        points, labels = [*points, case["box"][:2], case["box"][2:]], [*labels, 2, 3]
    points = [(x * new_width / width, y * new_height / height) for x, y in points]
    if "box" not in case:
        points, labels = [*points, (0.0, 0.0)], [*labels, -1]
    earlier = golden.VIT_B.array(image, "point", "low_res_masks") if name == "refine" else None
    return prompts.batch([(points, labels)], None if earlier is None else earlier[None])


@pytest.mark.parametrize("image", images.SIZES)
def test_embeddings_are_the_official_ones(embeddings: Embeddings, image: str) -> None:
    samples = embeddings[image]["image_embeddings"][..., ::8, ::8]
    expected = golden.VIT_B.embedding(image, "image_embeddings")
    np.testing.assert_allclose(samples.reshape(expected.shape), expected, atol=EMBEDDINGS)
    samples = embeddings[image]["interm_embeddings"][..., ::16, ::16, ::16]
    expected = golden.VIT_B.embedding(image, "interm_embeddings")
    np.testing.assert_allclose(samples.reshape(expected.shape), expected, atol=EMBEDDINGS)


@pytest.mark.parametrize("model", ["decoder", "prompt_decoder"])
@pytest.mark.parametrize(("image", "name"), golden.CASES)
def test_masks_are_the_official_ones(
    vit_b_repository: Path, embeddings: Embeddings, image: str, name: str, model: str
) -> None:
    outputs = prompts.run(vit_b_repository, model, embeddings[image] | prompt(image, name))
    logits = golden.VIT_B.array(image, name, "low_res_masks")
    np.testing.assert_allclose(outputs["low_res_masks"][0], logits, atol=LOGITS)
    iou = golden.VIT_B.array(image, name, "iou")
    np.testing.assert_allclose(outputs["iou_predictions"][0], iou, atol=IOU)


def test_fp16_halves_the_files(vit_b_repository: Path, fp16_repository: Path) -> None:
    for spec in SPECS:
        path = Path(spec.name, "1", "model.onnx")
        whole, half = ((root / path).stat().st_size for root in (vit_b_repository, fp16_repository))
        assert half < 0.55 * whole


@pytest.mark.long
def test_masks_in_fp16_agree_with_those_in_fp32(
    vit_b_repository: Path, fp16_repository: Path, embeddings: Embeddings
) -> None:
    lowered = encode(fp16_repository)
    agreement = {}
    for image, name in golden.CASES:
        case = prompt(image, name)
        found, expected = (
            prompts.run(folder, "prompt_decoder", known[image] | case)["low_res_masks"]
            for folder, known in ((fp16_repository, lowered), (vit_b_repository, embeddings))
        )
        agreement[image, name] = onnx_files.mask_iou(found, torch.from_numpy(expected))
    print(f"mask IoU of fp16 with fp32: {min(agreement.values()):.4f} at the lowest")
    assert min(agreement.values()) >= FP16_MASK_IOU, agreement
