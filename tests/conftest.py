"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hqsam_export import checkpoint, exporter

from tests import rebuilt

FULL_SIZE = ("e2e", "export")
"""Packages that share the export of a full-size model."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each package's tests, which share servers, in one process of pytest-xdist."""
    for item in items:
        package = item.path.parent.name
        group = "full size" if package in FULL_SIZE else package
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model repository with a tiny random model under the contract's shapes."""
    folder = tmp_path_factory.mktemp("tiny") / "model_repository"
    exporter.export(checkpoint.build_model(rebuilt.state_dict(rebuilt.TINY)), folder)
    return folder


@pytest.fixture(scope="session")
def vit_b_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model repository of a full-size ViT-B with the oracle's weights: takes a minute."""
    folder = tmp_path_factory.mktemp("vit_b") / "model_repository"
    exporter.export(checkpoint.build_model(rebuilt.state_dict()), folder)
    return folder
