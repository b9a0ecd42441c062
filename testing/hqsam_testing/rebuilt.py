"""Weights for tests: rebuilt ones of any size, meaningless but deterministic."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from hqsam_export import checkpoint, exporter
from hqsam_export.modeling import Architecture, HQSamModel, TinyViT, ViT
from torch import Tensor

from hqsam_testing.oracle import weights

LIGHT = Architecture(TinyViT())
"""Light HQ-SAM, at full size."""

TINY_VIT = ViT(width=48, depth=2, heads=2, global_blocks=(1,))

TINY = Architecture(TINY_VIT)
"""The smallest model that keeps the contract's shapes: seconds instead of minutes."""


def state_dict(architecture: Architecture | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Return weights under the official names; of a full-size ViT-B unless told otherwise."""
    if architecture is None:
        return {name: torch.from_numpy(array) for name, array in weights.state_dict(seed).items()}
    with torch.device("meta"):
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in HQSamModel(architecture).state_dict().items()
        }
    return {
        name: torch.from_numpy(weights.tensor(name, shape, seed)) for name, shape in shapes.items()
    }


def export(folder: Path, architecture: Architecture | None = None) -> None:
    """Export rebuilt weights in a process of its own: PyTorch keeps gigabytes afterwards."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(_export, folder, architecture).result()


def _export(folder: Path, architecture: Architecture | None) -> None:
    exporter.export(checkpoint.build_model(state_dict(architecture)), folder)
