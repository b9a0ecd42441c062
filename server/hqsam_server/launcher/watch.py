"""Restarts what dies of a running server.

When the process of a Python model dies, Triton does not start another one: the model answers
INTERNAL from then on, although Triton says that it is ready. So the program that started the
server has to notice, and to load the model again.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

from hqsam_server.errors import StartError
from hqsam_server.launcher.process import instances, stubs
from hqsam_server.launcher.triton_server import TritonServer

INTERVAL_S = 0.5
"""How often to look at the processes."""

LOAD_TIMEOUT_S = 120.0
"""How long a model may take to load before the whole server is restarted."""

MAX_RESTARTS = 5
"""Restarts within `STEADY_S`: of one model, before the server is restarted; of the server,
before supervision ends with an error."""

STEADY_S = 60.0


def supervise(server: TritonServer, report: Callable[[str], None] | None = None) -> None:
    """Look after a started server until the calling thread is interrupted.

    A model whose process died is loaded again. If that fails, or if the server itself died,
    the server is restarted on the same ports.

    Args:
        server: a server that was started.
        report: called with a line for each event; None writes to the server's log.

    Raises:
        StartError: the server keeps dying.
    """
    say = report or server.say
    loads: defaultdict[str, _Budget] = defaultdict(_Budget)
    restarts = _Budget()
    while True:
        status = server.wait(INTERVAL_S)
        if status is None:
            # By name: a process ID would miss a process that dies while its model loads.
            dead = {_model(name) for name in server.expected - {*instances(server.pid).values()}}
            if all(loads[it].spend() and _reload(server, it, say) for it in sorted(dead)):
                continue
        else:
            say(f"tritonserver ended with status {status}")
        _restart(server, restarts, say)


class _Budget:
    """Allows something `MAX_RESTARTS` times within `STEADY_S`."""

    def __init__(self) -> None:
        self._spent: deque[float] = deque(maxlen=MAX_RESTARTS)

    def spend(self) -> bool:
        """Count one more; tell whether it is allowed."""
        now = time.monotonic()
        if len(self._spent) == MAX_RESTARTS and now - self._spent[0] < STEADY_S:
            return False
        self._spent.append(now)
        return True


def _model(instance: str) -> str:
    """Return the model of an instance such as ``prompt_decoder_0_1``."""
    return instance.rsplit("_", 2)[0]


def _reload(server: TritonServer, model: str, say: Callable[[str], None]) -> bool:
    """Load a model again; tell whether that worked."""
    start = time.monotonic()
    say(f"a process of the model {model} died: loading it again")
    try:
        server.reload(model, LOAD_TIMEOUT_S)
    except StartError as error:
        say(str(error))
        return False
    # A model's process names its shared memory in its third argument. The dead one could not
    # remove its own.
    server.remove_shared_memory({arguments[2] for arguments in stubs(server.pid).values()})
    say(f"{model} is back after {time.monotonic() - start:.1f} s")
    return True


def _restart(server: TritonServer, budget: _Budget, say: Callable[[str], None]) -> None:
    """Restart the server until it is ready.

    Raises:
        StartError: it was not, in as many attempts as the budget allows.
    """
    why = "it kept dying"
    while budget.spend():
        start = time.monotonic()
        try:
            server.restart()
        except StartError as error:
            why = str(error)
            say(why)
            continue
        say(f"tritonserver was restarted in {time.monotonic() - start:.1f} s")
        return
    raise StartError(
        f"tritonserver was restarted {MAX_RESTARTS} times within {STEADY_S:g} s: {why}"
    )
