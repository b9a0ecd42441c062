"""`hqsam serve` as a child process, and what it leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as triton
from hqsam_server.launcher import cleanup
from hqsam_server.launcher.process import instances
from numpy.typing import NDArray

RUN = "import sys; from hqsam_cli.main import main; sys.exit(main())"
ANY_PORTS = ("--grpc-port=0", "--http-port=0", "--metrics-port=0")
PATIENCE_S = 120.0


def command(*arguments: str | Path, prelude: str = "") -> list[str]:
    """Return the command line of `hqsam serve` in a fresh Python, after a prelude."""
    return [sys.executable, "-c", prelude + RUN, "serve", *map(str, arguments)]


class Serve:
    """A running `hqsam serve`, with a folder of its own for temporary files."""

    def __init__(
        self, repository: Path, temporary: Path, *arguments: str, options: dict[str, str]
    ) -> None:
        """Start it, and wait until it says that it serves."""
        self._temporary = temporary
        self._lines: list[str] = []
        self._closed = False
        self._more = threading.Condition()
        self.process = subprocess.Popen(
            command(f"--model-repository={repository}", *ANY_PORTS, *arguments),
            env={**os.environ, "TMPDIR": str(temporary), **options},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        line = self.line("serving ")
        found = re.search(r"grpc://(\S+) http://(\S+) metrics (\S+)", line)
        assert found, line
        self.grpc_url, self.http_url, self.metrics_url = found.groups()
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        self.triton = next(it for it in self.family if it.name() == "tritonserver")
        self.janitor = next(it for it in self.family if cleanup.__file__ in it.cmdline())
        flag = "--backend-config=python,shm-region-prefix-name="
        (prefix,) = (it for it in self.triton.cmdline() if it.startswith(flag))
        self._prefix = prefix.removeprefix(flag)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._more:
                    self._lines.append(line)
                    self._more.notify_all()
        with self._more:
            self._closed = True
            self._more.notify_all()

    def line(self, text: str, count: int = 1) -> str:
        """Wait for the line, or the second or third one, of the output that has this text."""

        def found() -> list[str]:
            return [line for line in list(self._lines) if text in line]

        with self._more:
            self._more.wait_for(lambda: len(found()) >= count or self._closed, PATIENCE_S)
        assert len(found()) >= count, "".join(self._lines)
        return found()[count - 1]

    def instances(self) -> dict[str, int]:
        """Return the processes of the models as {instance: process ID}."""
        return {name: pid for pid, name in instances(self.triton.pid).items()}

    def shared_memory(self) -> list[str]:
        """Return the names of what it has in /dev/shm."""
        return sorted(path.name for path in cleanup.SHARED_MEMORY.glob(f"{self._prefix}*"))

    def stop(self, signum: int) -> int:
        """End it, with all that it started, and return the exit status."""
        self.process.send_signal(signum)
        status = self.process.wait(PATIENCE_S)
        _, alive = psutil.wait_procs(self.family, PATIENCE_S)
        assert not alive
        self._reader.join(PATIENCE_S)
        return status

    def left_behind(self) -> list[str]:
        """Return what is left of it: processes, shared memory, temporary files."""
        mark = f"{cleanup.MARK}={self._temporary}".encode()
        processes = [
            file.parent.name
            for file in Path("/proc").glob("[0-9]*/environ")
            if mark in _content(file)
        ]
        return [*processes, *self.shared_memory(), *map(str, self._temporary.iterdir())]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # gone, or somebody else's
        return b""


def infer(url: str, model: str, name: str, array: NDArray[Any], *outputs: str) -> dict[str, Any]:
    """Run a model on one input; the outputs by name."""
    with triton.InferenceServerClient(url) as client:
        return _infer(client.infer, model, name, array, *outputs)


def _infer(
    call: Callable[..., Any], model: str, name: str, array: NDArray[Any], *outputs: str
) -> dict[str, Any]:
    dtypes = {"f": "FP32", "d": "FP64", "O": "BYTES"}
    tensor = triton.InferInput(name, list(array.shape), dtypes[array.dtype.char])
    tensor.set_data_from_numpy(array)
    requested = [triton.InferRequestedOutput(output) for output in outputs] or None
    result = call(model, [tensor], outputs=requested, client_timeout=PATIENCE_S)
    return {it.name: result.as_numpy(it.name) for it in result.get_response().outputs}


X = np.array([[1, 2], [3, 4]], np.float32)


def works(url: str, model: str) -> None:
    """Assert that `numbers`, or a model that calls it, answers and is right."""
    assert infer(url, model, "x", X, "sum")["sum"].tolist() == [3, 7]
