"""Restarts what dies or hangs of a running server.

When the process of a Python model dies, Triton does not start another one: the model answers
INTERNAL from then on, although Triton says that it is ready. So the program that started the
server has to notice, and to load the model again. What hangs is killed first, see `hangs`.

A server that was ready once is never given up.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

from hqsam_server.errors import StartError
from hqsam_server.launcher.hangs import INTERVAL_S, Hangs
from hqsam_server.launcher.process import instances, stubs
from hqsam_server.launcher.triton_server import TritonServer

LOAD_TIMEOUT_S = 120.0
"""How long a model may take to load before the whole server is restarted."""

MAX_LOADS = 5
"""How often one model is loaded again within `STEADY_S` before the server is restarted."""

MAX_PAUSE_S = 60.0
"""The longest pause between two restarts of the server; the first one is made at once."""

STEADY_S = 60.0
"""After so long without a restart, the next one is made at once again."""


def supervise(server: TritonServer, report: Callable[[str], None] | None = None) -> None:
    """Look after a started server until the calling thread is interrupted.

    A model whose process died or hung is loaded again. If that fails, or if the server itself died
    or hung, the server is restarted on the same ports, as often as it takes, with pauses that
    grow to `MAX_PAUSE_S`.

    Args:
        server: a server that was started.
        report: called with a line for each event; None writes to the server's log.
    """
    say = report or server.say
    loads: defaultdict[str, _Budget] = defaultdict(_Budget)
    pauses = Pauses()
    with Hangs(server, say) as hangs:
        while True:
            status = server.wait(INTERVAL_S)
            if status is None:
                # By name: a process ID would miss a process that dies while its model loads.
                alive = instances(server.pid).values()
                dead = sorted({_model(name) for name in server.expected.difference(alive)})
                if all(loads[it].spend() and _reload(server, it, hangs, say) for it in dead):
                    hangs.look()  # what it kills is seen dead the next time
                    continue
            else:
                say(f"tritonserver ended with status {status}")
            _restart(server, pauses, hangs, say)
            loads.clear()


class _Budget:
    """Allows something `MAX_LOADS` times within `STEADY_S`."""

    def __init__(self) -> None:
        self._spent: deque[float] = deque(maxlen=MAX_LOADS)

    def spend(self) -> bool:
        """Count one more; tell whether it is allowed."""
        now = time.monotonic()
        if len(self._spent) == MAX_LOADS and now - self._spent[0] < STEADY_S:
            return False
        self._spent.append(now)
        return True


class Pauses:
    """The pauses before restarts: none, then 1, 2, 4, … `MAX_PAUSE_S` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without a pause; `clock` returns seconds."""
        self._clock = clock
        self._next_s = 0.0
        self._last = clock()

    def next_s(self) -> float:
        """Return the pause before a restart that is due now."""
        if self._clock() - self._last > STEADY_S:
            self._next_s = 0.0
        pause_s, self._next_s = self._next_s, min(max(1.0, 2 * self._next_s), MAX_PAUSE_S)
        return pause_s

    def restarted(self) -> None:
        """Note that the server is ready, or that its start failed."""
        self._last = self._clock()


def _model(instance: str) -> str:
    """Return the model of an instance such as ``prompt_decoder_0_1``."""
    return instance.rsplit("_", 2)[0]


def _reload(server: TritonServer, model: str, hangs: Hangs, say: Callable[[str], None]) -> bool:
    """Load a model again; tell whether that worked."""
    start = time.monotonic()
    say(f"a process of the model {model} died: loading it again")
    failures: list[StartError] = []
    loading = threading.Thread(target=_load, args=(server, model, failures), daemon=True)
    loading.start()
    while loading.is_alive():
        hangs.look_for_stopped()  # for which loading would wait
        # Triton may end instead of answering, and what it started may hold the connection open.
        if not server.is_running():
            return False
        loading.join(INTERVAL_S)
    if failures:
        say(str(failures[0]))
        return False
    hangs.forget()
    # A model's process names its shared memory in its third argument. The dead one could not
    # remove its own.
    server.remove_shared_memory({arguments[2] for arguments in stubs(server.pid).values()})
    say(f"{model} is back after {time.monotonic() - start:.1f} s")
    return True


def _load(server: TritonServer, model: str, failures: list[StartError]) -> None:
    try:
        server.reload(model, LOAD_TIMEOUT_S)
    except StartError as error:
        failures.append(error)


def _restart(
    server: TritonServer, pauses: Pauses, hangs: Hangs, say: Callable[[str], None]
) -> None:
    """Restart the server until it is ready, however often that fails."""
    while True:
        pause_s = pauses.next_s()
        if pause_s:
            say(f"restarting tritonserver in {pause_s:.0f} s")
            time.sleep(pause_s)
        start = time.monotonic()
        try:
            server.restart(hangs.look_for_stopped)
        except (StartError, OSError) as error:
            say(f"tritonserver cannot be restarted: {error}")
        else:
            hangs.forget()
            say(f"tritonserver was restarted in {time.monotonic() - start:.1f} s")
            return
        finally:
            pauses.restarted()
