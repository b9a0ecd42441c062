"""Replicas of `hqsam serve`, with the Envoy of docker/envoy in front of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hqsam_testing.envoy import Envoy
from hqsam_testing.replicas import Replica

REPLICAS = [int(count) for count in os.environ.get("HQSAM_TEST_REPLICAS", "2").split()]
"""How many replicas to test with. `make test-cluster` tests with two, and with three."""


@pytest.fixture(scope="module", params=REPLICAS)
def started(
    request: pytest.FixtureRequest,
    cheap_repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Replica]]:
    """Replicas that the tests of a file share, and that they may stop."""
    replicas = [
        Replica(cheap_repository, tmp_path_factory.mktemp("replica") / "temporary")
        for _ in range(request.param)
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
    """The same replicas; those that an earlier test stopped run again."""
    for replica in started:
        if not replica.is_running():
            replica.start()
    return started


@pytest.fixture
def envoy(replicas: list[Replica], tmp_path: Path) -> Iterator[Envoy]:
    with Envoy("envoy.yaml", [replica.address for replica in replicas], tmp_path) as envoy:
        yield envoy
