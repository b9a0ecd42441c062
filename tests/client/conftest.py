"""A running server with a tiny model, and images that it has not seen."""

from __future__ import annotations

import io
import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.oracle import images
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image

_SERIAL = itertools.count(1)


@pytest.fixture(scope="session")
def store(tiny_store: Path) -> Path:
    """The folder of the server's embedding store."""
    return tiny_store


@pytest.fixture(scope="session")
def server(tiny_server: TritonServer) -> TritonServer:
    return tiny_server


@pytest.fixture
def url(server: TritonServer) -> str:
    return server.grpc_url


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def sam(url: str) -> Iterator[HQSam]:
    with HQSam(url, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def array() -> NDArray[np.uint8]:
    """An image that no other test has sent, uint8 [200, 300, 3]."""
    image = images.draw(300, 200)
    image[0, 0] = (next(_SERIAL), 7, 7)
    return image


@pytest.fixture
def photo(array: NDArray[np.uint8]) -> bytes:
    """The same as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def forget(store: Path) -> Callable[[str], None]:
    """Removes an image from the server's store, as an eviction does."""

    def remove(image_id: str) -> None:
        entries = [path for path in store.rglob("*") if image_id in path.name and path.is_file()]
        assert entries, f"{image_id} is not in the store"
        for entry in entries:
            entry.unlink()

    return remove
