"""Deterministic HQ-SAM weights under the official checkpoints' names.

The published checkpoints (`sam_hq_vit_b.pth`, 379 MB; `sam_hq_vit_tiny.pth`)
cannot travel with the tests, so the oracle uses weights that anyone can rebuild
bit for bit: every tensor is drawn from a generator seeded by its own name. The
numbers mean nothing; names, shapes, dtypes and magnitudes are those of a real
checkpoint, so a converter that handles these handles the published file.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = Path(__file__).with_name("checkpoint_keys.json")
LIGHT_KEYS = Path(__file__).with_name("light_checkpoint_keys.json")


def state_dict(seed: int = 0, keys: Path = KEYS) -> dict[str, NDArray[Any]]:
    """Return {official tensor name: array}: ViT-B (94.8 M parameters) or Light (10.6 M)."""
    shapes = json.loads(keys.read_text())
    return {name: tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def tensor(name: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    noise = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("positional_encoding_gaussian_matrix"):
        return noise
    if "rel_pos" in name or "pos_embed" in name or name.endswith("attention_biases"):
        return noise * np.float32(0.1)
    if len(shape) == 1:
        # Norm scales sit near one; every bias is small.
        is_scale = name.endswith(("weight", "running_var"))
        return noise * np.float32(0.05) + np.float32(1.0 if is_scale else 0.0)
    if (
        name.split(".")[-2]
        in {"iou_token", "mask_tokens", "hf_token", "no_mask_embed", "not_a_point_embed"}
        or ".point_embeddings." in name
    ):
        return noise
    fan_in = int(np.prod(shape[1:]))
    return noise * np.float32(fan_in**-0.5)
