"""Engines of TensorRT: which folder they are in, and that one server at a time builds them."""

from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path

import pytest
from hqsam_server import TritonServer
from hqsam_server.file_lock import locked
from hqsam_server.launcher import engines
from hqsam_testing import configs
from hqsam_testing.serve_process import works
from hqsam_testing.waiting import wait_until

ACCELERATOR = """
optimization { execution_accelerators { gpu_execution_accelerator [ {
  name: "tensorrt"
  parameters { key: "trt_engine_cache_enable" value: "true" }
  parameters { key: "trt_engine_cache_path" value: "%s" }
} ] } }
"""


def test_the_variant_for_tensorrt_keeps_its_engines_where_the_image_has_a_volume(
    tmp_path: Path,
) -> None:
    for name in ("tensorrt", "cuda"):
        folder = tmp_path / name / "encoder"
        folder.mkdir(parents=True)
        source = configs.REPOSITORY / "encoder" / "configs" / f"{name}.pbtxt"
        shutil.copy(source, folder / "config.pbtxt")
    assert engines.folders(tmp_path / "tensorrt") == [Path("/var/cache/tensorrt")]
    assert engines.folders(tmp_path / "cuda") == []


@pytest.fixture
def with_engines(repository: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A repository whose model `gate` keeps engines in a folder, and the folder."""
    copy = Path(shutil.copytree(repository, tmp_path / "model_repository", symlinks=True))
    folder = tmp_path / "engines"
    with (copy / "gate" / "config.pbtxt").open("a") as config:
        config.write(ACCELERATOR % folder)
    return copy, folder


def test_a_server_waits_while_another_one_builds_and_then_starts(
    with_engines: tuple[Path, Path],
) -> None:
    repository, folder = with_engines
    log = io.StringIO()
    server = TritonServer(repository, log=log)
    starting = threading.Thread(target=server.start)
    try:
        with locked(folder / engines.LOCK, 0.0):
            starting.start()
            wait_until(
                lambda: f"waiting for another server that starts on {folder}" in log.getvalue(),
                "it to wait",
            )
            assert not server.is_running()
        starting.join()
        works(server.grpc_url, "numbers")
        # The next one may start now.
        with locked(folder / engines.LOCK, 0.0):
            pass
    finally:
        server.stop()


def test_one_that_builds_for_too_long_is_not_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(tmp_path / engines.LOCK, 0.0), engines.turn([tmp_path], 0.2, said.append):
        pass
    assert said[1:] == [f"another server has been starting on {tmp_path} for 0.2 s: going on"]


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _assert_warned(tmp_path / "file" / "engines", "Not a directory")


def _assert_warned(folder: Path, reason: str) -> None:
    said: list[str] = []
    with engines.turn([folder], 1.0, said.append):
        pass
    [line] = said
    assert f"{folder} cannot be written ({reason}): TensorRT builds at every start" in line
