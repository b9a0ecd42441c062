"""Prompts of a model, and running an exported file on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from hqsam_client import contract
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Prompt = tuple[list[tuple[float, float]], list[int]]
"""Points (x, y) in the input frame, and their labels."""

PROMPTS: dict[str, Prompt] = {
    "point": ([(400, 500), (0, 0)], [1, -1]),
    "background": ([(100.5, 800), (900, 3), (0, 0)], [1, 0, -1]),
    "box": ([(200, 300), (600, 700)], [2, 3]),
    "box_and_points": ([(50, 60), (70, 800), (210, 310), (590, 690)], [1, 0, 2, 3]),
}


def batch(prompts: Sequence[Prompt], masks: NDArray[Any] | None = None, length: int = 0) -> Arrays:
    """Return the prompt inputs of `prompt_decoder`, padded to one length, at least `length`."""
    length = max(length, *(len(labels) for _, labels in prompts))
    coords = np.zeros((len(prompts), length, 2), np.float32)
    codes = np.full((len(prompts), length), contract.LABEL_PADDING, np.float32)
    for row, (points, labels) in enumerate(prompts):
        coords[row, : len(points)] = points
        codes[row, : len(labels)] = labels
    given = float(masks is not None)
    if masks is None:
        masks = np.zeros((len(prompts), 1, 256, 256), np.float32)
    return {
        "point_coords": coords,
        "point_labels": codes,
        "mask_input": masks,
        "has_mask_input": np.full(len(prompts), given, np.float32),
    }


def image(width: int = 768) -> Arrays:
    """Return random embeddings, of the magnitude that an encoder's have."""
    rng = np.random.default_rng(0)
    return {
        "image_embeddings": rng.standard_normal((1, 256, 64, 64), np.float32),
        "interm_embeddings": rng.standard_normal((4, 1, 64, 64, width), np.float32),
    }


@cache
def session(path: Path) -> onnxruntime.InferenceSession:
    """Load a file; sessions are kept, so this is for small models, and they keep no memory."""
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(repository: Path, name: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """Run a model of a repository on those of `inputs` that it has."""
    opened = session(repository / name / "1" / "model.onnx")
    outputs = [output.name for output in opened.get_outputs()]
    taken = {tensor.name: inputs[tensor.name] for tensor in opened.get_inputs()}
    return dict(zip(outputs, opened.run(outputs, taken), strict=True))
