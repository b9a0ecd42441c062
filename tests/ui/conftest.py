"""The page on a running server with a tiny random model, and a browser."""

from __future__ import annotations

import io
import itertools
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing import browser as browsers
from hqsam_testing.command import Command, hqsam
from hqsam_testing.oracle import images
from hqsam_testing.waiting import TIMEOUT_S
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

_SERIAL = itertools.count(1)


@pytest.fixture(scope="session")
def server(tiny_server: TritonServer) -> TritonServer:
    return tiny_server


@pytest.fixture
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def unused_address() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def hqsam_ui(*arguments: str) -> Iterator[tuple[str, Command]]:
    """Run `hqsam ui` on a free port; yields its address and the command."""
    with Command(hqsam("ui", "--port=0", *arguments)) as command:
        yield command.line("HQ-SAM page on http://").split()[3], command
        status = command.stop(signal.SIGTERM)
        assert status == 0, command.output()


def image_file(width: int, height: int, file_format: str = "PNG") -> bytes:
    """Return an image file that no other test has sent."""
    array = images.draw(width, height)
    array[:8, :8] = (next(_SERIAL), 7, 7)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture
def photo() -> bytes:
    """A new image of 300 x 200 pixels as a PNG file."""
    return image_file(300, 200)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed on this machine."""
    executable = browsers.find()
    if executable is None:
        pytest.skip(browsers.MISSING)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=executable,
            # Chromium's sandbox does not start for root, as in containers.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield running
        running.close()
