"""A running server with a tiny model, low limits, and a small store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hqsam_server import TritonServer
from hqsam_testing.api import Api, serve

STORE_ENTRIES = 6
MAX_WAITING = 8


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's embedding store."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="package")
def server(tiny_repository: Path, store: Path) -> Iterator[TritonServer]:
    """A server that the tests of the models share."""
    options = {
        "HQSAM_MAX_BYTES": "1000000",
        "HQSAM_NICE": "19",
        "HQSAM_ENCODE_WORKERS": "3",  # of which one caller gets two
        "HQSAM_MAX_WAITING": str(MAX_WAITING),
        "HQSAM_STORE_BYTES": str(STORE_ENTRIES * 12_600_000),
    }
    with serve(tiny_repository, store, options) as running:
        yield running


@pytest.fixture
def api(server: TritonServer) -> Iterator[Api]:
    with Api(server) as api:
        yield api
