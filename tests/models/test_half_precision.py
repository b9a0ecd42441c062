from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from hqsam_client import contract
from hqsam_server.models.preprocess import Limits
from hqsam_server.store.embedding_store import EmbeddingStore
from hqsam_server.store.entry import Embedding
from hqsam_testing import image_files
from hqsam_testing.oracle import prompts
from hqsam_testing.preprocess import preprocess

from tests.models.fakes import Metrics

WIDTH, HEIGHT = 600, 400


def test_masks_from_half_precision_entries_agree(tiny_repository: Path, tmp_path: Path) -> None:
    sessions = {
        model.name: onnxruntime.InferenceSession(tiny_repository / model.name / "1" / "model.onnx")
        for model in (contract.ENCODER, contract.FEATURES, contract.PROMPT_DECODER)
    }
    image, size = preprocess(image_files.png(WIDTH, HEIGHT), Limits())
    image_embeddings, interm_embeddings = sessions["encoder"].run(None, {"image": image})
    inputs = {"image_embeddings": image_embeddings, "interm_embeddings": interm_embeddings}
    (hq_features,) = sessions["features"].run(None, inputs)
    whole = Embedding(image_embeddings, hq_features, size)
    store = EmbeddingStore(tmp_path, "a" * 64, Metrics().metrics, half_precision=True)
    store.put("0" * 64, whole)
    half = store.get("0" * 64)
    assert half is not None

    scale = contract.INPUT_SIZE / max(WIDTH, HEIGHT)
    points = prompts.pixels(prompts.PROMPTS["six_points"], WIDTH, HEIGHT)
    coords = np.array([points["points"]], np.float32) * scale
    prompt = {
        "point_coords": np.concatenate([coords, np.zeros((1, 1, 2), np.float32)], axis=1),
        "point_labels": np.array([[*points["labels"], -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    masks = [
        sessions["prompt_decoder"].run(
            ["low_res_masks"],
            {
                "image_embeddings": entry.image_embeddings,
                "hq_features": entry.hq_features,
                **prompt,
            },
        )[0]
        for entry in (whole, half)
    ]
    assert 0.01 < (masks[0] > 0).mean() < 0.99  # else there is no edge to differ at
    assert ((masks[0] > 0) == (masks[1] > 0)).mean() > 0.999
    assert np.abs(masks[0] - masks[1]).max() < 2e-3 * np.abs(masks[0]).max()
