"""A stand-in repository, and servers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hqsam_server import TritonServer
from hqsam_server.front.settings import OPEN_MODELS_VARIABLE
from hqsam_testing.serve_process import Serve

from tests.server import standins


@pytest.fixture(scope="package", autouse=True)
def _all_stand_ins_are_open() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OPEN_MODELS_VARIABLE, ",".join(standins.MODELS))
        yield


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standins.write(tmp_path_factory.mktemp("standins") / "model_repository")


@pytest.fixture(scope="session")
def whole_repository(cheap_repository: Path) -> Path:
    """All of the real repository's models, with arithmetic in place of HQ-SAM."""
    return cheap_repository


@pytest.fixture(scope="package")
def shared(repository: Path) -> Iterator[TritonServer]:
    """A server on the stand-in repository that tests share."""
    with TritonServer(repository) as server:
        yield server


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The servers' folder for temporary files; empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(repository: Path, temporary: Path) -> Iterator[Callable[..., Serve]]:
    """Starts `hqsam serve` on the stand-in repository, with arguments and options."""
    started: list[Serve] = []

    def start(*arguments: str, options: dict[str, str] | None = None) -> Serve:
        server = Serve(repository, temporary, *arguments, options=options or {})
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()
