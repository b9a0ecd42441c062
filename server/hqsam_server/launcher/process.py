"""The `tritonserver` process: its log, and its end."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import psutil

from hqsam_server.launcher.distribution import STUB

# A line of Triton's log: severity and time, process, place, message.
_LOG_LINE = re.compile(r"^(?P<severity>[EWI])\d{4} \S+ \d+ \S+\] (?P<message>.*)$")

# What it says of an argument that it cannot use, among the usage of all the others.
_BAD_OPTION = re.compile(r"(unrecognized|Bad) option")

# What it says, as errors, on every machine without a GPU.
_NOISE = re.compile(r"CudaDriverHelper|unable to create stream .*CUDA driver version")

# What it says where somebody else listens on one of its ports.
_LOST_PORT = re.compile(r"failed to start \w+ service: .* already in use")

# The line with which Triton says that every request has been answered.
_DRAINED = "All models are stopped"

# How long the last answers may take to reach the network after that. Triton would go on to
# unload its models, for seconds, in which it answers NOT_FOUND to whoever comes.
_FLUSH_S = 0.5

_LAST_WORDS_S = 5.0


class Process:
    """A running `tritonserver` in a process group of its own, with its models' processes."""

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        folder: Path,
        log: TextIO | None,
    ) -> None:
        """Start it.

        Args:
            command: program and arguments.
            environment: all of its environment variables.
            folder: where it runs.
            log: where its output goes; None for nowhere.
        """
        self._recent: collections.deque[str] = collections.deque(maxlen=1000)
        self._log = log
        self._drained = threading.Event()
        self._process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=folder,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process ID, which is its group's, too."""
        return self._process.pid

    def _read_log(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        with self._process.stdout as lines:
            for line in lines:
                if _DRAINED in line:
                    self._drained.set()
                self._recent.append(line.rstrip("\n"))
                if self._log is not None:
                    # Nobody may read our output any more. Triton's has to be read all the
                    # same, or it would stop at a full pipe.
                    with contextlib.suppress(OSError, ValueError):
                        print(line, end="", file=self._log, flush=True)
        self._drained.set()

    def reason(self) -> str:
        """Return what the log says went wrong, in one line."""
        if not self.is_running():
            self._reader.join(_LAST_WORDS_S)  # its last words may still be on their way
        errors = [
            match["message"]
            for line in list(self._recent)
            if (match := _LOG_LINE.match(line)) and match["severity"] == "E"
        ]
        errors = [message for message in errors if not _NOISE.search(message)]
        errors.sort(key=lambda message: "failed to " not in message)
        errors += filter(_BAD_OPTION.search, self._recent)
        errors += filter(None, reversed(self._recent))
        return next(iter(errors), "it said nothing")

    def lost_a_port(self) -> bool:
        """Tell whether it ended because somebody else listened on one of its ports."""
        return any(map(_LOST_PORT.search, list(self._recent)))

    def is_running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for it to end; return its exit status, or None after the timeout."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self, timeout_s: float) -> None:
        """End it, once the requests under way are answered or the timeout is over."""
        if self.is_running():
            self._process.send_signal(signal.SIGTERM)
            self._drained.wait(timeout_s)
            self.wait(_FLUSH_S)
        self.kill()

    def kill(self) -> None:
        """End it at once, and the models' processes, which outlive a server that died."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_LAST_WORDS_S)  # the last holders of the pipe are gone


def instances(server_pid: int) -> dict[int, str]:
    """Return the living processes of a server's Python models as {process ID: instance}.

    Instances have names such as ``prompt_decoder_0_1``: model, device, number.
    """
    return {pid: arguments[-2] for pid, arguments in stubs(server_pid).items()}


def stubs(server_pid: int) -> dict[int, list[str]]:
    """Return the command lines of the living processes of a server's Python models."""
    found = {}
    try:
        children = psutil.Process(server_pid).children()
    except psutil.NoSuchProcess:
        return {}
    for child in children:
        try:
            arguments = child.cmdline()
        except psutil.Error:  # a zombie, or gone since
            continue
        if arguments and arguments[0].endswith(STUB):
            found[child.pid] = arguments
    return found
