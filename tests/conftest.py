"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hqsam_export import checkpoint, exporter

from tests import rebuilt


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model repository with a tiny random model under the contract's shapes."""
    folder = tmp_path_factory.mktemp("tiny") / "model_repository"
    exporter.export(checkpoint.build_model(rebuilt.state_dict(rebuilt.TINY)), folder)
    return folder
