"""A checkout of this project as a server with clients: exported, started, driven and measured."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from hqsam_server.launcher.process import family
from hqsam_testing.command import Command
from hqsam_testing.processes import shared_memory

from benchmarks import driver
from benchmarks.contestants import CLICK, IMAGE

START_S = 600.0
"""Limit for a start that has to compile ViT-B while the processor does other things."""

_PREFIX = "--backend-config=python,shm-region-prefix-name="


@dataclass(frozen=True)
class Build:
    """A checkout with a `.venv`, and where its server keeps things.

    Attributes:
        checkout: the folder.
        repository: the model repository that it exports and serves.
        cache: compiled models.
        store: embeddings, on tmpfs.
    """

    checkout: Path
    repository: Path
    cache: Path
    store: Path

    @property
    def name(self) -> str:
        """The commit, and whether files differ from it."""
        command = ["git", "-C", str(self.checkout), "describe", "--always", "--dirty"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.checkout / ".venv" / "bin" / "python"

    def _hqsam(self, *arguments: object) -> list[str]:
        return [str(self.python.with_name("hqsam")), *map(str, arguments)]

    def export(self, checkpoint: Path) -> None:
        """Export the checkpoint with the code of the checkout, unless it was exported before."""
        if not (self.repository / "manifest.json").exists():
            options = (f"--checkpoint={checkpoint}", f"--output={self.repository}")
            subprocess.run(self._hqsam("export", *options), check=True, stdout=sys.stderr)

    @contextmanager
    def serve(self) -> Iterator[Server]:
        """Yield a server that is ready."""
        command = self._hqsam(
            "serve",
            f"--model-repository={self.repository}",
            f"--cache-dir={self.cache}",
            f"--store-folder={self.store}",
            *(f"--{service}-port=0" for service in ("grpc", "http", "metrics")),
        )
        with Command(command) as running:
            line = running.line("serving ", timeout_s=START_S)
            yield Server(self, running.process.pid, line.split("grpc://")[1].split()[0])
            running.stop(signal.SIGTERM)


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        build: whose it is.
        pid: of `hqsam serve`.
        url: of its gRPC service.
    """

    build: Build
    pid: int
    url: str

    def memory(self) -> dict[str, float]:
        """Return what its processes and its files on tmpfs take, in bytes.

        Pages that several processes share are counted once, and so are those that processes map
        from the files.
        """
        processes = family(self.pid)
        rolled = [_smaps(process) for process in processes]
        resident = sum(pages["Pss"] for pages in rolled)
        triton = next(it for it in processes if it.name() == "tritonserver")
        (prefix,) = (it for it in triton.cmdline() if it.startswith(_PREFIX))
        files = [*shared_memory(prefix.removeprefix(_PREFIX)), *self.build.store.iterdir()]
        on_tmpfs = sum(512 * file.stat().st_blocks for file in files)
        return {
            "resident memory": resident,
            "its files on tmpfs": on_tmpfs,
            "memory in all, each page once": resident
            - sum(pages["Pss_Shmem"] for pages in rolled)
            + on_tmpfs,
        }


def _smaps(process: psutil.Process) -> dict[str, int]:
    """Return the sums over all mappings of a process, in bytes."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    fields = [line.split() for line in lines[1:]]  # such as "Pss:  123 kB"
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in fields}


class Clients:
    """The clients of a server, in a process of their own; see `driver`.

    Args:
        server: theirs.
        file: a JPEG of `contestants.IMAGE` pixels.
        python: of the environment whose client they use.
    """

    def __init__(self, server: Server, file: Path, python: Path) -> None:
        rng = random.Random(0)  # noqa: S311
        more = [(rng.randrange(IMAGE[0]), rng.randrange(IMAGE[1])) for _ in range(15)]
        self._process = subprocess.Popen(
            [python, driver.__file__, server.url, file, json.dumps([CLICK, *more])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the clients ended; see above")
        return json.loads(line)

    def __call__(self, name: str, **arguments: object) -> Any:
        """Call a method of `driver.Driver`."""
        assert self._process.stdin is not None  # noqa: S101
        print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        self._process.wait()
