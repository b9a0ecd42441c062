"""The front's processes: started, started again when they end or hang, and stopped."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hqsam_server.launcher.log import Log
from hqsam_server.launcher.process import spawn

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_STEADY_S = 60.0
_CHECK_S = 0.5
_FAILED_CHECKS = 3
_FAILED_CHECKS_OF_A_START = 60
"""On a busy machine, a start takes seconds. Killed for that, the process would never come up."""


class FrontProcess:
    """One process of the front. Once it was ready, it is started again whenever it ends."""

    def __init__(
        self,
        kind: str,
        environment: Mapping[str, str],
        folder: Path,
        log: Log,
        is_alive: Callable[[], bool],
    ) -> None:
        """Start it.

        Args:
            kind: ``grpc`` or ``http``.
            environment: all of its environment variables.
            folder: the server's folder, where it runs.
            log: where its output goes.
            is_alive: asks it, within seconds, whether it still answers.
        """
        self.kind = kind
        # What callers do wrong is no news for the operator.
        self._environment = {**environment, "GRPC_VERBOSITY": "NONE"}
        self._folder = folder
        self._log = log
        self._is_alive = is_alive
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.is_kept = False
        self.last_line = "it said nothing"
        self._process = self._spawn()
        self._threads = [threading.Thread(target=self._read, daemon=True)]
        self._threads[0].start()

    @property
    def pid(self) -> int:
        """Its process ID, which changes when it is started again."""
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.poll() is None

    def keep(self) -> None:
        """From now on, start it again when it ends or hangs."""
        if not self.is_kept:
            self.is_kept = True
            self._threads.append(threading.Thread(target=self._watch, daemon=True))
            self._threads[-1].start()

    def _spawn(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hqsam_server.front", self.kind]
        return spawn(command, self._environment, self._folder)

    def _read(self) -> None:
        """Show what it says; start it again when it ends."""
        pause_s = _FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            assert self._process.stdout is not None  # noqa: S101
            with self._process.stdout as lines:
                for line in lines:
                    self.last_line = line.strip()
                    self._log.say(self.last_line)
            status = self._process.wait()
            if self._stopping.is_set() or not self.is_kept:
                return
            self._log.say(f"the {self.kind} front ended with status {status}: starting it again")
            if time.monotonic() - started > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = self._spawn()

    def _watch(self) -> None:
        """Kill it when it hangs."""
        failed, most, watched = 0, _FAILED_CHECKS, self._process
        while not self._stopping.wait(_CHECK_S):
            process = self._process
            if process is not watched:
                failed, most, watched = 0, _FAILED_CHECKS_OF_A_START, process
            if self._is_alive():
                failed, most = 0, _FAILED_CHECKS
            else:
                failed += 1
            if failed >= most and not self._stopping.is_set():
                self._log.say(f"the {self.kind} front does not answer: starting it again")
                process.kill()
                failed = 0

    def terminate(self) -> None:
        """Tell it to take no more requests, and to end once it has answered those under way."""
        with self._lock:
            self._stopping.set()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self, timeout_s: float = 0.0) -> None:
        """End it, at the latest after this time."""
        with self._lock:
            self._stopping.set()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._process.kill()
        for thread in self._threads:
            thread.join()
