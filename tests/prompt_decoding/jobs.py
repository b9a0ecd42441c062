"""Prompts for the decoders, on random embeddings, and what `prompt_decoder` answers to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hqsam_client.contract import LABEL_PADDING, PROMPT_DECODER
from hqsam_server import small_model
from hqsam_server.prompt_decoding.decoder import Job, PlacedImage
from hqsam_server.runtime import open_model
from hqsam_server.runtime.config import Arrays, ModelFile
from hqsam_server.store.entry import Embedding
from hqsam_testing import configs

OUTPUTS = [spec.name for spec in PROMPT_DECODER.outputs]


def prompt_decoder_file() -> ModelFile:
    config = configs.cpu_variant("prompt_decoder")
    path = small_model.FOLDER / "prompt_decoder" / "1" / "model.onnx"
    return replace(ModelFile.of(config, path), openvino=None, intra_op_threads=2)


def embedding(seed: int) -> Embedding:
    """Return an embedding as the store does: its arrays cannot be written."""
    random = np.random.default_rng(seed)
    image_embeddings = random.standard_normal((1, 256, 64, 64), np.float32)
    hq_features = random.standard_normal((1, 32, 256, 256), np.float32)
    for array in (image_embeddings, hq_features):
        array.flags.writeable = False
    return Embedding(image_embeddings, hq_features, original_size=(600, 800))


def job(image: PlacedImage, points: int, *, seed: int = 0, mask: bool = False) -> Job:
    """Return clicks with the padding point that a prompt without a box has."""
    random = np.random.default_rng(seed)
    labels = np.ones((1, points), np.float32)
    labels[0, -1] = LABEL_PADDING
    return Job(
        image,
        1024 * random.random((1, points, 2), np.float32),
        labels,
        random.standard_normal((1, 1, 256, 256), np.float32) if mask else None,
    )


def expected(stored: Embedding, job: Job, file: ModelFile | None = None) -> Arrays:
    """Return what `prompt_decoder` answers in a process of its own."""
    mask = np.zeros((1, 1, 256, 256), np.float32) if job.mask_input is None else job.mask_input
    inputs: Arrays = {
        "image_embeddings": stored.image_embeddings,
        "hq_features": stored.hq_features,
        "point_coords": job.point_coords,
        "point_labels": job.point_labels,
        "mask_input": mask,
        "has_mask_input": np.array([job.mask_input is not None], np.float32),
    }
    return open_model(file or prompt_decoder_file()).run(inputs, OUTPUTS)
