"""The image of docker/Dockerfile, built once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.images import Storage, missing


@pytest.fixture(scope="package")
def storage() -> Iterator[Storage]:
    """A storage with the image for processors."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="hqsam-containers-") as folder:
        storage = Storage(Path(folder))
        try:
            storage.build_server()
            yield storage
        finally:
            # Its layers are mounted as long as it has containers.
            with contextlib.suppress(AssertionError):
                storage.podman("pod", "rm", "--all", "--force")
            storage.podman("rm", "--all", "--force", "--time=0")
            storage.podman("rmi", "--all", "--force")
