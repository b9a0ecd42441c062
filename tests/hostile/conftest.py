"""A server on the small model, which has to survive everything that these tests send."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hqsam_server import Front, TritonServer, Tuning
from hqsam_testing.api import Api

from tests.hostile.unhurt import unhurt

OPEN = ("hq_sam", "preprocess", "prompt_decoder")
"""Models that an operator may open, and that must stand the same then."""

MAX_PIXELS = 20_000_000
DECODE_SECONDS = 2


@pytest.fixture(scope="package")
def server() -> Iterator[TritonServer]:
    with TritonServer(
        tuning=Tuning(precision="fp32"),
        environment={
            "HQSAM_MAX_PIXELS": str(MAX_PIXELS),
            "HQSAM_DECODE_SECONDS": str(DECODE_SECONDS),
            # Images that are kept on purpose would look like a leak.
            "HQSAM_RESIDENT_BYTES": str(4 * 12_600_000),
        },
        # Two callers are told apart by what a proxy says of them.
        front=Front(open_models=OPEN, http=True, proxies=("127.0.0.1",)),
    ) as running:
        yield running


@pytest.fixture(scope="package")
def api(server: TritonServer) -> Iterator[Api]:
    with Api(server) as api:
        yield api


@pytest.fixture(scope="module", autouse=True)
def the_server_is_unhurt(server: TritonServer, api: Api) -> Iterator[None]:
    """Check, after the tests of a module, that none of them hurt the server."""
    with unhurt(server, api):
        yield
