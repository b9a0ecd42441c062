"""Heals a running server.

When the process of a Python model dies, Triton does not start another one: the model
answers INTERNAL from then on, while Triton goes on saying that it is ready. Whoever
started the server has to notice, and to load the model again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import grpc
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hqsam_server._distribution import STUB
from hqsam_server._errors import StartError
from hqsam_server._triton import TritonServer

INTERVAL_S = 0.5
"""How often the processes are looked at."""

LOAD_TIMEOUT_S = 120.0
"""How long a model may take to load before the whole server is started again."""

MAX_RESTARTS = 5
"""Restarts of the server in a row, without `STEADY_S` between them, before it is given up."""

STEADY_S = 60.0


def watch(server: TritonServer, report: Callable[[str], None] | None = None) -> None:
    """Look after a server until the calling thread is interrupted.

    A model whose process died is loaded again; where that fails, or where the server
    itself died, the server is started again on the same ports.

    Args:
        server: a server that was started.
        report: called with a line for each event; by default it goes to standard error.

    Raises:
        StartError: the server keeps dying.
    """
    say = report or (lambda line: print(f"hqsam serve: {line}", file=sys.stderr, flush=True))
    known = backend_processes(server.pid)
    restarts = 0
    last_restart = 0.0
    while True:
        ended = server.wait(INTERVAL_S)
        if ended is None:
            current = backend_processes(server.pid)
            dead = {model for pid, model in known.items() if pid not in current}
            if not dead:
                known = current
                continue
            if all(_reload(server, model, say) for model in sorted(dead)):
                # What is left of the old processes ends by itself, and is no news.
                loaded = backend_processes(server.pid)
                known = {pid: model for pid, model in loaded.items() if pid not in known} | {
                    pid: model for pid, model in loaded.items() if model not in dead
                }
                continue
        else:
            say(f"tritonserver ended with status {ended}")
        restarts = restarts + 1 if time.monotonic() - last_restart < STEADY_S else 1
        if restarts > MAX_RESTARTS:
            raise StartError(f"tritonserver was started again {MAX_RESTARTS} times in vain")
        start = time.monotonic()
        server.restart()
        last_restart = time.monotonic()
        say(f"tritonserver was started again within {last_restart - start:.1f} s")
        known = backend_processes(server.pid)


def backend_processes(server_pid: int) -> dict[int, str]:
    """Return the living processes of a server's Python models as {process ID: model}."""
    processes = {}
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
            # One before the last is the instance, such as prompt_decoder_0_1.
            processes[child.pid] = arguments[-2].rsplit("_", 2)[0]
    return processes


def _reload(server: TritonServer, model: str, say: Callable[[str], None]) -> bool:
    """Load a model again; tell whether it is ready then."""
    start = time.monotonic()
    say(f"a process of the model {model} died: loading it again")
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            # Not unloaded first: healthy instances go on answering until the new ones are there.
            server.touch(model)
            stub.RepositoryModelLoad(
                service_pb2.RepositoryModelLoadRequest(model_name=model),
                metadata=server.admin_metadata,
                timeout=LOAD_TIMEOUT_S,
            )
            ready = stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=10.0).ready
        except grpc.RpcError as error:
            say(f"{model} could not be loaded: {error}")
            return False
    say(f"{model} is back after {time.monotonic() - start:.1f} s")
    server.count_heal()
    return bool(ready)
