"""Finds what hangs of a running server, and kills it, so that it is restarted like what died.

Two signs are looked for, at every look of the supervisor:

- A process is stopped (state T), such as by SIGSTOP. A debugger's state (t) does not count.
- A real call is not answered, and meanwhile no process of the server computes, waits for a
  processor, or waits for a disk. Such a call can be answered at once; so a server that is slow, or
  starved of processor, is never taken for one that hangs.

Looks are counted, not seconds: when the whole machine is suspended, the supervisor does not look
either, and nothing counts as a hang when it wakes up.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

from hqsam_server.launcher.process import family, instances
from hqsam_server.launcher.triton_server import TritonServer

INTERVAL_S = 0.5
"""Least time between two looks at the processes."""

LOOKS_STOPPED = 4
"""After so many looks in a row at which a process is stopped, it hangs."""

LOOKS_IDLE = 10
"""After so many looks in a row at which a call waits and nothing computes, the server hangs."""

CALL_INTERVAL_S = 2.0
"""Pause between two calls."""

# A call that is answered sooner is not worth a look at the processes.
_PATIENCE_S = 1.0

# Of one processor. An idle server takes less than a hundredth.
_IDLE_SHARE = 0.1

# Each is refused by the model's own code, before the store is asked or anything is computed.
_NO_IMAGE_ID = {"name": "image_id", "datatype": "BYTES", "shape": [1], "data": ["is-it-alive"]}
_POINT = {"name": "point_coords", "datatype": "FP32", "shape": [1, 1, 2], "data": [0, 0]}
_LABEL = {"name": "point_labels", "datatype": "FP32", "shape": [1, 1], "data": [1]}
_NO_IMAGE = {"name": "encoded_image", "datatype": "UINT8", "shape": [1], "data": [0]}
_CALLS: dict[str, list[dict[str, Any]]] = {
    "embed": [_NO_IMAGE_ID],
    "segment": [_NO_IMAGE_ID, _POINT, _LABEL],
    "preprocess": [_NO_IMAGE],
}

# Triton says this of a process that was silent for a second during a call. When the
# answer comes nevertheless, Triton ends with SIGABRT.
_GIVEN_UP = re.compile(r"Stub process '([^']+)' is not healthy")

# Longer than any queue; what hangs is killed long before.
_CALL_TIMEOUT_S = 3600.0

_BUSY_STATES = ("R", "D")
_STOPPED = "T"


class Hangs:
    """Looks for what hangs of one server, also after restarts. It is a context manager."""

    def __init__(self, server: TritonServer, say: Callable[[str], None]) -> None:
        """Prepare to look; `say` is called with a line for each process that is killed."""
        self._server = server
        self._say = say
        self._calls = _Calls(server)
        self._stopped: Counter[int] = Counter()
        self._looked_for_stopped = 0.0
        self._idle = 0
        self._used_s = 0.0
        self._looked_for_idle = 0.0

    def __enter__(self) -> Hangs:
        """Begin to call the server."""
        self._calls.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End that."""
        self._calls.stop()

    def forget(self) -> None:
        """Forget what was said of processes that have been replaced since."""
        self._calls.forget()

    def look(self) -> None:
        """Look once, and kill what hangs."""
        self.look_for_stopped()
        for instance in self._calls.given_up():
            self._kill(instance, "was silent during a call")
        if self._calls.waits():
            self._look_for_idle()
        else:
            self._idle = 0

    def look_for_stopped(self) -> None:
        """Kill the processes that are stopped; may be called more often than it has to look."""
        now = time.monotonic()
        if now - self._looked_for_stopped < INTERVAL_S:
            return
        self._looked_for_stopped = now
        members = {process.pid: process for process in family(self._server.pid)}
        stopped = [pid for pid in members if _state(Path(f"/proc/{pid}")) == _STOPPED]
        self._stopped = Counter({pid: self._stopped[pid] + 1 for pid in stopped})
        for pid, looks in self._stopped.items():
            if looks >= LOOKS_STOPPED:
                self._say(f"{self._name(members[pid])} is stopped and answers nothing: killing it")
                _kill(pid)

    def _look_for_idle(self) -> None:
        """Kill the server if nothing has computed since a call was made, for long enough."""
        now, members = time.monotonic(), family(self._server.pid)
        used_s = sum(map(_processor_s, members))
        limit_s = _IDLE_SHARE * (now - self._looked_for_idle)
        computes = abs(used_s - self._used_s) > limit_s or any(map(_is_busy, members))
        self._idle = 0 if computes else self._idle + 1
        self._used_s, self._looked_for_idle = used_s, now
        if self._idle >= LOOKS_IDLE:
            self._idle = 0
            model = self._calls.model
            self._say(f"{model} does not answer, and nothing computes: killing tritonserver")
            _kill(self._server.pid)

    def _name(self, process: psutil.Process) -> str:
        with contextlib.suppress(psutil.Error):  # it has ended
            return instances(self._server.pid).get(process.pid) or process.name()
        return "a process"

    def _kill(self, instance: str, why: str) -> None:
        for pid, name in instances(self._server.pid).items():
            if name == instance:
                self._say(f"{instance} {why}: killing it")
                _kill(pid)


class _Calls:
    """Calls each model in turn, for ever, in a thread of its own: a call may never return.

    Attributes:
        model: the model that is being called.
    """

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._models = [name for name in _CALLS if f"{name}_0_0" in server.expected]
        self._over = threading.Event()
        self._since: float | None = None
        self._given_up: deque[str] = deque()
        self._forgotten = 0
        self.model = ""

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def waits(self) -> bool:
        """Tell whether a call has been waiting for its answer for a while."""
        since = self._since
        return since is not None and time.monotonic() - since > _PATIENCE_S

    def given_up(self) -> Iterator[str]:
        """Yield, once, the instances of which Triton said that they were silent."""
        while self._given_up:
            yield self._given_up.popleft()

    def forget(self) -> None:
        """Forget what Triton said, and will say in answer to the call that waits."""
        self._forgotten += 1
        self._given_up.clear()

    def _run(self) -> None:
        while not self._over.wait(CALL_INTERVAL_S):
            for model in self._models:
                self.model = model
                self._since = time.monotonic()
                while not self._is_answered() and not self._over.wait(_PATIENCE_S):
                    pass
                self._since = None

    def _is_answered(self) -> bool:
        """Call once; a full queue and a lost connection are no answer of the model."""
        forgotten = self._forgotten
        status, text = self._server.call(self.model, _CALLS[self.model], _CALL_TIMEOUT_S)
        if forgotten == self._forgotten:
            self._given_up.extend(_GIVEN_UP.findall(text))
        return status not in (0, HTTPStatus.SERVICE_UNAVAILABLE)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _state(folder: Path) -> str:
    """Return the letter of the state of a process or thread by its folder in /proc; "" if gone."""
    try:
        text = (folder / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def _is_busy(process: psutil.Process) -> bool:
    """Tell whether a thread runs, could run, or waits for a disk."""
    with contextlib.suppress(OSError):  # it has ended
        threads = Path(f"/proc/{process.pid}/task").iterdir()
        return any(_state(thread) in _BUSY_STATES for thread in threads)
    return False


def _processor_s(process: psutil.Process) -> float:
    """Return the processor time that a process has taken, in seconds."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
