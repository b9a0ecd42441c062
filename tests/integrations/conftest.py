"""The servers that integrations talk to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.command import Command
from hqsam_testing.servers import small_server
from hqsam_testing.waiting import TIMEOUT_S

__all__ = ["small_server"]


@pytest.fixture(scope="package")
def server(small_server: TritonServer) -> TritonServer:
    return small_server


@pytest.fixture
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def service() -> Iterator[Callable[..., str]]:
    """Starts a module that is a web service on a free port, and returns its address."""
    with ExitStack() as running:

        def start(module: str, url: str, **environment: str) -> str:
            command = Command(
                [sys.executable, "-u", "-m", module, "--port=0", f"--url={url}"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            )
            running.enter_context(command)
            running.callback(command.stop, signal.SIGTERM)
            return command.line("Running on http://").partition("http://")[2].split()[0]

        yield start
