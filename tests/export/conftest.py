"""Fixtures for the tests of the exporter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hqsam_export import checkpoint
from hqsam_export.modeling import HQSamModel
from hqsam_testing import rebuilt
from torch import Tensor


@pytest.fixture(scope="session")
def tiny_tensors() -> dict[str, Tensor]:
    """The tensors of the tiny model; copy before changing one."""
    return rebuilt.state_dict(rebuilt.TINY)


@pytest.fixture(scope="session")
def tiny_model(tiny_tensors: dict[str, Tensor]) -> HQSamModel:
    return checkpoint.build_model(tiny_tensors)


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, tiny_tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(tiny_tensors, path)
    return path


@pytest.fixture
def own_repository(tmp_path: Path, tiny_repository: Path) -> Path:
    """A copy of the tiny repository that a test may change."""
    return shutil.copytree(tiny_repository, tmp_path / "own")
