"""A client that waits as long as tests do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.waiting import TIMEOUT_S


@contextmanager
def connect(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
        yield sam
