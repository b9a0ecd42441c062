"""The `tritonserver` process, the processes of its models, and how they end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from hqsam_server.launcher.distribution import STUB
from hqsam_server.launcher.log import Log

# How long the last answers may take to reach the network once every request is answered.
# After that, Triton would unload its models for seconds and answer NOT_FOUND meanwhile.
_FLUSH_S = 0.5

_KILL_TIMEOUT_S = 10.0

# Linux allows no more unless an operator says so. Some programs close every possible file.
_MOST_FILES = 2**20

# Triton's Python backend always makes its folder for packed environments here.
_TEMPORARY = Path("/tmp")  # noqa: S108


class Process:
    """A running `tritonserver` in its own process group, with its models' processes."""

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        folder: Path,
        log: Log,
    ) -> None:
        """Start it.

        Args:
            command: program and arguments.
            environment: all of its environment variables.
            folder: where it runs.
            log: what reads its output.
        """
        self.log = log
        self._foreign = _packed_environments()
        self._is_environment_known = False
        self._process = spawn(command, environment, folder)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process ID, which is also that of its group."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        with self._process.stdout as lines:
            self.log.read(lines)

    def new_environment(self) -> Path | None:
        """Return, once, the folder for packed Python environments that this Triton has made.

        Triton makes an empty folder in /tmp when it loads its Python backend, and leaves it there
        when it is killed. No name leads from the one to the other. So look often while it starts:
        a folder that appears between the loading of the backend and the first process of a
        model is this Triton's, if it is the only one. If another Triton starts at the same
        moment, nobody can tell, and the result is None.
        """
        if self._is_environment_known:
            return None
        new = _packed_environments() - self._foreign
        if instances(self.pid):
            self._is_environment_known = True
            return new.pop() if len(new) == 1 else None
        if not self._has_python_backend():
            self._foreign |= new
        return None

    def _has_python_backend(self) -> bool:
        try:
            return "libtriton_python" in Path(f"/proc/{self.pid}/maps").read_text()
        except OSError:  # it has ended
            return True

    def is_running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for it to end; return its exit status, or None after the timeout."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def reason(self) -> str:
        """Return in one line what its log says went wrong."""
        if not self.is_running():
            self._reader.join(_KILL_TIMEOUT_S)  # the last lines may still be in the pipe
        return self.log.reason()

    def terminate(self, timeout_s: float) -> None:
        """End it once the requests under way are answered, or after the timeout."""
        if self.is_running():
            self._process.send_signal(signal.SIGTERM)
            self.log.drained.wait(timeout_s)
            self.wait(_FLUSH_S)
        self.kill()

    def kill(self) -> None:
        """End it at once, with the models' processes, which would outlive it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(_KILL_TIMEOUT_S)
        self._reader.join(_KILL_TIMEOUT_S)  # the pipe closes with its last writer


_LIMIT = threading.Lock()
"""Held while this process has another limit of open files: threads start processes, too."""


def spawn(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[str]:
    """Start a process in a group of its own, whose output is text to read, with many files."""
    with many_files():
        return subprocess.Popen(  # noqa: S603
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


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all that it has started; none if it has ended."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Let processes that are started in the block open as many files as the hard limit allows.

    A thousand connections that do nothing would use up the usual soft limit, and then nobody could
    connect. This process keeps its own limit.
    """
    with _LIMIT:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            yield
            return
        most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def instances(server_pid: int) -> dict[int, str]:
    """Return the living processes of a server's Python models as {process ID: instance}.

    Instances have names such as ``prompt_decoder_0_1``: model, instance group, number.
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
        except psutil.Error:  # a zombie, or gone
            continue
        if arguments and arguments[0].endswith(STUB):
            found[child.pid] = arguments
    return found


def _packed_environments() -> set[Path]:
    return set(_TEMPORARY.glob("python_env_*"))
