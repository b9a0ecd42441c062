"""A running server with a tiny model, and an image that it has not seen."""

from __future__ import annotations

import io
import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.oracle import images
from hqsam_testing.waiting import TIMEOUT_S
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Path:
    """A folder to work in, with a `photo.png` that no other test has sent.

    The commands find the server by themselves.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HQSAM_URL", url)
    array = images.draw(300, 200)
    array[0, 0] = (next(_SERIAL), 7, 7)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    (tmp_path / "photo.png").write_bytes(buffer.getvalue())
    return tmp_path


@pytest.fixture
def forget(store: Path) -> Callable[[str], None]:
    """Removes an image from the server's store, as an eviction does."""

    def remove(image_id: str) -> None:
        entries = [path for path in store.rglob("*") if image_id in path.name and path.is_file()]
        assert entries, f"{image_id} is not in the store"
        for entry in entries:
            entry.unlink()

    return remove
