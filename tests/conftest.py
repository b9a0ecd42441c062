"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hqsam_export import checkpoint, exporter
from hqsam_testing import rebuilt
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

FULL_SIZE = ("e2e", "export")
"""Packages that share the export of a full-size model."""


class _PackageScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps each package's tests, which share servers, in one process of pytest-xdist."""

    def _split_scope(self, nodeid: str) -> str:
        package = nodeid.split("/")[1]
        return "full size" if package in FULL_SIZE else package


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Let pytest-xdist distribute packages."""
    return _PackageScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what servers compile for the session, and out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
