"""Commands under test. None outlives its test, and none is waited for without a limit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil
from hqsam_server.launcher.process import family

from hqsam_testing.processes import is_janitor
from hqsam_testing.waiting import TIMEOUT_S

Arguments = Sequence[str | Path]

_HQSAM = "import sys; from hqsam_cli.main import main; sys.exit(main())"


def hqsam(*arguments: str | Path, prelude: str = "") -> list[str]:
    """Return the command line of `hqsam` in a fresh Python, after a prelude in Python."""
    return [sys.executable, "-c", prelude + _HQSAM, *map(str, arguments)]


def run(
    arguments: Arguments,
    timeout_s: float = TIMEOUT_S,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and capture its output.

    Raises:
        TimeoutError: the command took longer. It was killed with all that it had started, and
            the message holds its output.
    """
    with Command(arguments, cwd=cwd, env=env, separate_errors=True) as command:
        status = command.wait(timeout_s)
        return subprocess.CompletedProcess(arguments, status, command.output(), command.errors())


class Command:
    """A command that runs in the background, and its output line by line.

    ::

        with Command(["hqsam", "serve"]) as server:
            server.line("serving ")

    Attributes:
        process: its process.
    """

    def __init__(
        self,
        arguments: Arguments,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        separate_errors: bool = False,
    ) -> None:
        """Start it.

        Args:
            arguments: program and arguments.
            cwd: folder to run in.
            env: the whole environment; None for this process's.
            separate_errors: whether `errors` holds its standard error; else that is part of
                `output`.
        """
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._closed = False
        self._more = threading.Condition()
        self.process = subprocess.Popen(
            list(map(str, arguments)),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if separate_errors else subprocess.STDOUT,
            text=True,
        )
        # Threads that nothing waits for: a pipe closes once its last holder ends.
        self._readers = [threading.Thread(target=self._read, daemon=True)]
        if separate_errors:
            self._readers.append(threading.Thread(target=self._read_errors, daemon=True))
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill what still runs."""
        self.kill()

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

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as errors:
            self._errors.extend(errors)

    def output(self) -> str:
        """Return what it has printed so far."""
        return "".join(self._lines)

    def errors(self) -> str:
        """Return what it has printed to standard error, where that is separate."""
        return "".join(self._errors)

    def line(self, text: str, count: int = 1, timeout_s: float = TIMEOUT_S) -> str:
        """Wait for the line of its output that has this text, or the second or third such line.

        Raises:
            AssertionError: it ended without that line, or the time was over. The message holds
                its output.
        """

        def found() -> list[str]:
            return [line for line in list(self._lines) if text in line]

        with self._more:
            self._more.wait_for(lambda: len(found()) >= count or self._closed, timeout_s)
        reason = "it ended without" if self._closed else f"within {timeout_s:g} s it did not print"
        assert len(found()) >= count, f"{reason} {text!r}:\n{self.output()}{self.errors()}"
        return found()[count - 1]

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for its end and for the rest of its output, and return the exit status.

        Raises:
            TimeoutError: it takes longer. The message holds its output.
        """
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            said = f"{self.output()}{self.errors()}"
            raise TimeoutError(f"it did not end within {timeout_s:g} s:\n{said}") from error
        for reader in self._readers:
            reader.join(timeout_s)
        return status

    def stop(self, signum: int) -> int:
        """Send a signal, wait for its end, and return the exit status."""
        self.process.send_signal(signum)
        return self.wait()

    def kill(self) -> None:
        """Kill it with all that it has started, and wait until nothing is left.

        Janitors of servers live on: they clean up after the others, and end by themselves.
        """
        processes = [] if self.process.poll() is not None else family(self.process.pid)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if not is_janitor(process):
                    process.kill()
        self.process.wait(TIMEOUT_S)
        psutil.wait_procs(processes, TIMEOUT_S)
        for reader in self._readers:
            reader.join(TIMEOUT_S)
