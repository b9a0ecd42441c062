"""Runs a function on image files in processes that have a budget of time and memory.

A small file can keep a decoder busy for hours, or make it take all memory, in more ways than a
check of headers can know. So the file is decoded where it harms nobody: in a process that the
kernel ends when its processor time is spent, and that gets no more memory than its budget. It is
replaced, and the file is refused. Before that, a file that takes long gives way to all others.

Processes are started when they are needed, and kept for the next file.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue
from typing import Any, NamedTuple

from hqsam_client.errors import HQSamError, ImageError

_POLL_S = 0.1
# How much longer than its processor time a file may take, on a machine that is busy.
_PATIENCE = 10


class DecoderLostError(HQSamError):
    """A process ended, or stopped answering, for a reason that is not the image's."""


@dataclass(frozen=True)
class Budget:
    """What the decoding of one file may take.

    Attributes:
        cpu_s: processor time in seconds; the kernel counts whole seconds.
        memory_bytes: memory in addition to that of an idle process.
        nice: added to the processes' priority number; higher gives way to others.
        idle_after_s: processor time in seconds after which the file is only decoded while nothing
            else wants the processor (``SCHED_IDLE``, where there is such a thing); None for never.
    """

    cpu_s: int
    memory_bytes: int
    nice: int = 0
    idle_after_s: float | None = None


class Decoded(NamedTuple):
    """What the function returned: small values, and bytes such as pixels."""

    values: dict[str, Any]
    content: bytes


class Decoders:
    """A few processes that run one function on files, each on one file at a time."""

    def __init__(self, function: str, processes: int, budget: Budget) -> None:
        """Prepare the processes; none is started yet.

        Args:
            function: ``module:name``. It takes the bytes of a file and options, and returns
                values that JSON can hold, and bytes. An `HQSamError` that it raises is a refusal.
            processes: how many files are decoded at once.
            budget: limits on each file.
        """
        self._function = function
        self._budget = budget
        self._processes = processes
        self._idle: LifoQueue[_Process | None] = LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def warm_up(self) -> None:
        """Start a process, so that the first file need not wait for it."""
        self._idle.get()
        self._idle.put(self._start())

    def _start(self) -> _Process:
        return _Process(self._function, self._budget)

    def run(
        self,
        encoded: bytes | memoryview,
        options: Mapping[str, Any],
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Decoded:
        """Run the function on a file; waits until a process is free.

        Args:
            encoded: the file.
            options: the function's second argument; JSON has to hold it.
            is_cancelled: looked at while the function runs, which is ended when it is true.

        Raises:
            ImageError: the function refused the file, or the file exceeded its budget, or made
                the process crash.
            CancelledError: `is_cancelled` became true.
            DecoderLostError: the process was lost; the same file may be decoded later.
        """
        process = self._idle.get()
        try:
            if process is None or not process.is_running():
                process = self._start()
            return process.run(encoded, options, is_cancelled)
        finally:
            self._idle.put(self._kept(process))

    def _kept(self, process: _Process | None) -> _Process | None:
        """Return a process for the next file: another one, which starts now, if this one ended."""
        if process is None or process.is_running():
            return process
        with suppress(OSError):
            return self._start()
        return None

    def close(self) -> None:
        """End the processes, each when its file is done."""
        for process in [self._idle.get() for _ in range(self._processes)]:
            if process is not None:
                process.end()
            self._idle.put(None)


class _Process:
    """A process that runs the function; `hqsam_client.decoding.child` is its program."""

    def __init__(self, function: str, budget: Budget) -> None:
        self._budget = budget
        self._is_idle = False
        patience_s = _PATIENCE * budget.cpu_s
        ours, theirs = socket.socketpair()
        with theirs:
            # Neither a read nor a write waits for ever for a process that hangs.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", patience_s, 0))
            self._connection = Connection(ours.detach())
            program = [_python(), "-m", "hqsam_client.decoding.child"]
            options = {"function": function, **asdict(budget)}
            self._process = subprocess.Popen(  # noqa: S603
                [*program, str(theirs.fileno()), json.dumps(options)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def run(
        self, encoded: bytes | memoryview, options: Mapping[str, Any], is_cancelled: Any
    ) -> Decoded:
        try:
            self._connection.send_bytes(json.dumps(options).encode())
            self._connection.send_bytes(encoded)
            self._wait(is_cancelled)
            answer = json.loads(self._connection.recv_bytes())
            content = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        except BaseException:
            self.end()
            raise
        if self._is_idle:
            self.end()  # it may not raise its priority again
        if "refusal" in answer:
            raise ImageError(answer["refusal"])
        return Decoded(answer, content)

    def _wait(self, is_cancelled: Callable[[], bool]) -> None:
        """Wait for the answer, or the end of the process."""
        idle_after_s = self._budget.idle_after_s
        used_s = 0.0 if idle_after_s is None else _cpu_s(self._process.pid)
        patience_s = _PATIENCE * self._budget.cpu_s
        end = time.monotonic() + patience_s
        while not self._connection.poll(_POLL_S):
            if is_cancelled():
                raise CancelledError
            if idle_after_s is not None and _cpu_s(self._process.pid) - used_s > idle_after_s:
                self._make_idle()
            if time.monotonic() > end:
                raise DecoderLostError(
                    f"the image was not decoded within {patience_s} s, because the machine is "
                    "overloaded or the process hangs: try again later"
                )

    def _make_idle(self) -> None:
        self._is_idle = True
        with suppress(OSError):  # a thread, or the process, has ended
            for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))

    def _lost(self) -> HQSamError:
        """Return why the process does not answer, and end it."""
        # A process that has closed its connection ends; one that hangs is killed.
        try:
            status = self._process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        self.end()
        if status == -signal.SIGXCPU:
            return ImageError(
                f"the image took more than {self._budget.cpu_s} s of processor time to decode: "
                "save it again with an image editor, in a simpler format or smaller"
            )
        if status < 0 and status != -signal.SIGKILL:
            return ImageError(
                f"the image made its decoder crash ({signal.Signals(-status).name}): "
                "save it again with an image editor"
            )
        return DecoderLostError(
            f"the process that decoded the image ended with status {status}: try again"
        )


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process in seconds; 0 where there is no /proc, or it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The second field, the program's name in brackets, may have spaces.
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _python() -> str:
    """Return the interpreter; inside a program that embeds Python, `sys.executable` may be another.

    Its packages are found through ``PYTHONPATH``.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    program = Path(sys.base_exec_prefix, "bin", f"python{version}")
    return str(program) if program.exists() else sys.executable
