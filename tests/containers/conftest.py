"""The image of docker/Dockerfile, built once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.containers.images import Storage, missing


@pytest.fixture(scope="package")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A storage with the image for processors."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    storage = Storage(tmp_path_factory.mktemp("containers"))
    try:
        storage.build()
        yield storage
    finally:
        # Its layers are mounted as long as it has containers.
        with contextlib.suppress(AssertionError):
            storage.podman("pod", "rm", "--all", "--force")
        storage.podman("rm", "--all", "--force", "--time=0")
        storage.podman("rmi", "--all", "--force")
