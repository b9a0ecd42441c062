"""A running server with a tiny model, and an image that it has not seen."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.oracle import images
from hqsam_testing.servers import forget, tiny_server, tiny_store
from hqsam_testing.waiting import TIMEOUT_S
from PIL import Image

__all__ = ["forget", "tiny_server", "tiny_store"]

_SERIAL = itertools.count(1)


@pytest.fixture(scope="package")
def server(tiny_server: TritonServer) -> TritonServer:
    return tiny_server


@pytest.fixture
def url(server: TritonServer) -> str:
    return server.grpc_url


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
