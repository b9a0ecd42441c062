"""Replicas of `hqsam serve`, and the Envoy of docker/envoy before them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hqsam_testing import cheap_repository as cheap
from hqsam_testing.envoy import Envoy
from hqsam_testing.replicas import Replica


@pytest.fixture(scope="session")
def cheap_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cheap.write(tmp_path_factory.mktemp("cheap") / "model_repository")


@pytest.fixture(scope="module")
def started(
    cheap_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Replica]]:
    """Replicas that the tests of a file share, and that they may stop: two, or as many as told."""
    replicas = [
        Replica(cheap_repository, tmp_path_factory.mktemp("replica") / "temporary")
        for _ in range(int(os.environ.get("HQSAM_TEST_REPLICAS", "2")))
    ]
    try:
        for replica in replicas:
            replica.start()
        yield replicas
    finally:
        for replica in replicas:
            replica.kill()


@pytest.fixture
def replicas(started: list[Replica]) -> list[Replica]:
    """Replicas that run, whatever an earlier test did to them."""
    for replica in started:
        if not replica.is_running():
            replica.start()
    return started


@pytest.fixture
def envoy(replicas: list[Replica], tmp_path: Path) -> Iterator[Envoy]:
    with Envoy("envoy.yaml", [replica.address for replica in replicas], tmp_path) as envoy:
        yield envoy
