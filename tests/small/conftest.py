"""A server with the small model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer, Tuning

from tests.small.connecting import connect


@pytest.fixture(scope="package")
def sam() -> Iterator[HQSam]:
    with TritonServer(tuning=Tuning(precision="fp32")) as server, connect(server) as client:
        yield client
