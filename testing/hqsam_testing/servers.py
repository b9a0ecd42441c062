"""Fixtures: servers for a package of tests. Its conftest imports them; they end with its last test.

A server takes two gigabytes: those of the whole run would not fit side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hqsam_server import TritonServer

from hqsam_testing.api import serve


@pytest.fixture(scope="package")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the store of `tiny_server`."""
    return tmp_path_factory.mktemp("tiny-store")


@pytest.fixture(scope="package")
def tiny_server(tiny_repository: Path, tiny_store: Path) -> Iterator[TritonServer]:
    """A running server with the tiny model in fp32. Tests leave it as they find it."""
    with serve(tiny_repository, tiny_store) as server:
        yield server


@pytest.fixture(scope="package")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A running server with the small model in fp32. Tests leave it as they find it."""
    with serve(None, tmp_path_factory.mktemp("small-store")) as server:
        yield server


@pytest.fixture
def forget(tiny_store: Path) -> Callable[[str], None]:
    """Removes an image from the store of `tiny_server`, as an eviction does."""

    def remove(image_id: str) -> None:
        entries = [
            path for path in tiny_store.rglob("*") if image_id in path.name and path.is_file()
        ]
        assert entries, f"{image_id} is not in the store"
        for entry in entries:
            entry.unlink()

    return remove
