"""`hqsam serve` as a child process, and what it leaves behind."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as triton
from hqsam_server.launcher import cleanup
from hqsam_server.launcher.process import instances
from numpy.typing import NDArray

from hqsam_testing.command import Command, hqsam
from hqsam_testing.processes import is_janitor, shared_memory
from hqsam_testing.waiting import TIMEOUT_S, wait_until

ANY_PORTS = ("--grpc-port=0", "--http-port=0", "--metrics-port=0")


def command(*arguments: str | Path, prelude: str = "") -> list[str]:
    """Return the command line of `hqsam serve` in a fresh Python, after a prelude."""
    return hqsam("serve", *arguments, prelude=prelude)


def urls(line: str) -> tuple[str, str, str]:
    """Return ``host:port`` of gRPC, HTTP and metrics from the line that says that it serves."""
    found = re.search(r"grpc://(\S+) http://(\S+) metrics (\S+)", line)
    assert found, line
    grpc, http, metrics = found.groups()
    return grpc, http, metrics


class Serve(Command):
    """A running `hqsam serve`, with a folder of its own for temporary files.

    Attributes:
        family: the processes that it started, as they were when it was ready.
        triton: the one that is `tritonserver`.
        janitor: the one that cleans up after the others.
    """

    def __init__(
        self, repository: Path, temporary: Path, *arguments: str, options: dict[str, str]
    ) -> None:
        """Start it, and wait until it says that it serves."""
        super().__init__(
            command(f"--model-repository={repository}", *ANY_PORTS, *arguments),
            env={**os.environ, "TMPDIR": str(temporary), **options},
        )
        self._temporary = temporary
        try:
            self._look_around(self.line("serving "))
        except BaseException:
            self.kill()
            raise

    def _look_around(self, line: str) -> None:
        self.grpc_url, self.http_url, self.metrics_url = urls(line)
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        self.triton = next(it for it in self.family if it.name() == "tritonserver")
        self.janitor = next(it for it in self.family if is_janitor(it))
        flag = "--backend-config=python,shm-region-prefix-name="
        (prefix,) = (it for it in self.triton.cmdline() if it.startswith(flag))
        self._prefix = prefix.removeprefix(flag)

    def instances(self) -> dict[str, int]:
        """Return the processes of the models as {instance: process ID}, after restarts as well."""
        children = psutil.Process(self.process.pid).children()
        servers = [it.pid for it in children if it.name() == "tritonserver"]
        return {name: pid for server in servers for pid, name in instances(server).items()}

    def recoveries(self) -> int:
        """Return how often a model was loaded again, or all of Triton was started again.

        Triton sometimes ends with a process that dies during a call, see docs/known-issues.md.
        """
        return sum(self.output().count(text) for text in ("is back after", "was restarted in"))

    def wait_for_recovery(self, before: int) -> None:
        """Wait until there are more than `before` recoveries."""
        wait_until(lambda: self.recoveries() > before, "the server to recover")

    def shared_memory(self) -> list[str]:
        """Return the names of what it has in /dev/shm."""
        return [path.name for path in shared_memory(self._prefix)]

    def stop(self, signum: int) -> int:
        """Send a signal, wait until it and all that it started ended; return its exit status."""
        status = super().stop(signum)
        _, alive = psutil.wait_procs(self.family, TIMEOUT_S)
        assert not alive
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
    """Run a model on one input, and return the outputs by name."""
    dtypes = {"f": "FP32", "d": "FP64", "O": "BYTES"}
    tensor = triton.InferInput(name, list(array.shape), dtypes[array.dtype.char])
    tensor.set_data_from_numpy(array)
    requested = [triton.InferRequestedOutput(output) for output in outputs] or None
    with triton.InferenceServerClient(url) as client:
        result = client.infer(model, [tensor], outputs=requested, client_timeout=TIMEOUT_S)
    return {it.name: result.as_numpy(it.name) for it in result.get_response().outputs}


X = np.array([[1, 2], [3, 4]], np.float32)


def works(url: str, model: str) -> None:
    """Assert that `numbers`, or a model that calls it, answers and is right."""
    assert infer(url, model, "x", X, "sum")["sum"].tolist() == [3, 7]
