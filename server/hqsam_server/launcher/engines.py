"""The engines of TensorRT, which are built at a start and kept in a folder that servers may share.

A build takes minutes, a GPU and much memory. Of servers that start on one folder together, one
builds; the others wait, and read what it built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hqsam_server.file_lock import locked
from hqsam_server.launcher.repository_view import read_config

LOCK = ".hqsam-start.lock"
"""Name of the file in such a folder that a server locks while it starts."""

_ENABLED = ("true", "1")


def folders(repository: Path) -> list[Path]:
    """Return the folders in which the models of a repository keep their engines.

    Args:
        repository: the server's view, as `repository_view.write_repository` wrote it.
    """
    found = set()
    for file in repository.glob("*/config.pbtxt"):
        for it in read_config(file).optimization.execution_accelerators.gpu_execution_accelerator:
            kept = it.parameters.get("trt_engine_cache_enable", "").lower() in _ENABLED
            if it.name == "tensorrt" and kept and "trt_engine_cache_path" in it.parameters:
                found.add(Path(it.parameters["trt_engine_cache_path"]))
    return sorted(found)


@contextmanager
def turn(folders: Iterable[Path], timeout_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to build engines in these folders; a start without it builds them as well.

    Args:
        folders: where engines are kept.
        timeout_s: how long to wait for another server.
        say: called with a line for the operator.
    """
    with ExitStack() as stack:
        for folder in folders:
            try:
                _take(stack, folder, timeout_s, say)
            except TimeoutError:
                say(f"another server has been starting on {folder} for {timeout_s:g} s: going on")
            except OSError as error:
                say(
                    f"the folder of engines {folder} cannot be written ({error.strerror}): "
                    "TensorRT builds at every start, which takes minutes; mount a volume there"
                )
        yield


def _take(stack: ExitStack, folder: Path, timeout_s: float, say: Callable[[str], None]) -> None:
    try:
        stack.enter_context(locked(folder / LOCK, 0.0))
    except TimeoutError:
        say(f"waiting for another server that starts on {folder}, and may build engines there")
        stack.enter_context(locked(folder / LOCK, timeout_s))
