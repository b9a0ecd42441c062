"""A model's process or all of Triton dies: the server comes back and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hqsam_server import TritonServer
from hqsam_server.launcher import watch
from hqsam_server.launcher.process import instances
from hqsam_testing.serve_process import Serve, infer, works
from hqsam_testing.waiting import TIMEOUT_S
from tritonclient.utils import InferenceServerException

Start = Callable[..., Serve]


def restarts(server: Serve) -> float:
    """Return the metric of that name."""
    with urllib.request.urlopen(server.metrics_url, timeout=TIMEOUT_S) as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    (line,) = (line for line in lines if line.startswith("hqsam_restarts_total"))
    return float(line.split()[-1])


def test_a_model_whose_process_died_is_loaded_again(serve: Start) -> None:
    server = serve("--", "--log-info=true")
    memory = len(server.shared_memory())
    assert restarts(server) == 0
    for count in (1, 2):
        os.kill(server.instances()["numbers_0_0"], signal.SIGKILL)
        server.line("numbers is back", count)
        server.line("successfully unloaded 'numbers'", count)  # the rest of the old one
        for model in ("numbers", "pipeline", "caller"):
            works(server.grpc_url, model)
        assert restarts(server) == count
    assert server.triton.is_running()
    assert len(server.shared_memory()) <= memory
    assert server.stop(signal.SIGTERM) == 0
    assert server.left_behind() == []


def test_a_model_that_dies_as_soon_as_the_server_is_ready_is_loaded_again(repository: Path) -> None:
    def until_back(line: str) -> None:
        if "is back" in line:
            raise KeyboardInterrupt

    with TritonServer(repository) as server:
        found = instances(server.pid)
        (process,) = (pid for pid, name in found.items() if name == "numbers_0_0")
        os.kill(process, signal.SIGKILL)
        with pytest.raises(KeyboardInterrupt):
            watch.supervise(server, until_back)
        works(server.grpc_url, "numbers")


def test_one_of_two_instances_that_died_is_replaced(serve: Start) -> None:
    server = serve()
    os.kill(server.instances()["caller_0_1"], signal.SIGKILL)
    server.line("caller is back")
    assert {"caller_0_0", "caller_0_1"} <= server.instances().keys()
    for _ in range(4):
        works(server.grpc_url, "caller")


@pytest.mark.slow
def test_several_models_that_died_at_once_are_loaded_again(serve: Start) -> None:
    server = serve()
    found = server.instances()
    for name in ("numbers_0_0", "gate_0_0", "caller_0_0"):
        os.kill(found[name], signal.SIGKILL)
    for model in ("numbers", "gate", "caller"):
        server.line(f"{model} is back")
    for model in ("numbers", "pipeline", "caller"):
        works(server.grpc_url, model)


def test_a_request_whose_process_died_ends_with_an_error(serve: Start, tmp_path: Path) -> None:
    server = serve()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = np.array([str(pipe).encode()], np.object_)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(infer, server.grpc_url, "gate", "path", path)
        with pipe.open("wb"):  # opens once the model does: the request is under way
            os.kill(server.instances()["gate_0_0"], signal.SIGKILL)
        assert isinstance(answer.exception(), InferenceServerException)
        server.wait_for_recovery(0)
        answer = pool.submit(infer, server.grpc_url, "gate", "path", path)
        pipe.write_bytes(b"again")
        assert bytes(answer.result()["said"]) == b"again"


@pytest.mark.slow
def test_a_triton_that_died_is_started_again_on_the_same_ports(serve: Start) -> None:
    server = serve()
    server.triton.kill()
    server.line("tritonserver was restarted")
    for model in ("numbers", "pipeline", "caller"):
        works(server.grpc_url, model)
    assert restarts(server) == 1
    assert server.stop(signal.SIGTERM) == 0
    assert server.left_behind() == []


class Dying:
    """A server that ends while a model is loaded, with a connection that never says so."""

    pid = 0
    expected = frozenset({"segment_0_0"})

    def __init__(self) -> None:
        self.over = threading.Event()

    def wait(self, _timeout_s: float) -> None:
        """Say that it runs: it is about to end."""

    def is_running(self) -> bool:
        return False

    def reload(self, _model: str, _timeout_s: float) -> None:
        assert self.over.wait(TIMEOUT_S)

    def restart(self, _look: Callable[[], None]) -> None:
        raise KeyboardInterrupt

    def call(self, *_: object) -> tuple[int, str]:
        return HTTPStatus.OK, ""


def test_a_server_that_ends_while_a_model_is_loaded_is_restarted_at_once() -> None:
    # Its models' processes, which outlived it, held the connection open: for two minutes, nobody
    # was served.
    server = Dying()
    said: list[str] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            watch.supervise(cast("TritonServer", server), said.append)
    finally:
        server.over.set()
    assert said == ["a process of the model segment died: loading it again"]


@pytest.mark.slow
def test_the_server_is_restarted_if_a_model_cannot_be_loaded_again(
    serve: Start, repository: Path
) -> None:
    server = serve()
    file = repository / "numbers" / "1" / "model.onnx"
    hidden = file.with_suffix(".hidden")
    file.rename(hidden)
    try:
        os.kill(server.instances()["numbers_0_0"], signal.SIGKILL)
        server.line("numbers could not be loaded")
    finally:
        hidden.rename(file)
    server.line("tritonserver was restarted")
    works(server.grpc_url, "numbers")


@pytest.mark.slow
def test_a_server_that_keeps_dying_is_restarted_for_ever(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten requests of a client's ended a server that gave up after five restarts.
    monkeypatch.setattr(watch, "MAX_PAUSE_S", 0.1)
    lines: list[str] = []
    with TritonServer(repository) as server:

        def kill(line: str) -> None:
            lines.append(line)
            if "was restarted" in line:
                if sum("was restarted" in it for it in lines) == 6:
                    raise KeyboardInterrupt
                os.kill(server.pid, signal.SIGKILL)

        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(KeyboardInterrupt):
            watch.supervise(server, kill)
        works(server.grpc_url, "numbers")


@pytest.mark.slow
def test_restarts_that_fail_are_repeated_until_one_succeeds(serve: Start, repository: Path) -> None:
    server = serve()
    file = repository / "numbers" / "1" / "model.onnx"
    hidden = file.with_suffix(".hidden")
    file.rename(hidden)
    try:
        server.triton.kill()
        server.line("tritonserver cannot be restarted: Triton ended while it started", 2)
        server.line("restarting tritonserver in 1 s")
    finally:
        hidden.rename(file)
    server.line("tritonserver was restarted")
    works(server.grpc_url, "numbers")


def test_pauses_between_restarts_grow_to_a_limit_and_end_after_a_while() -> None:
    now = 0.0
    pauses = watch.Pauses(lambda: now)
    found = []
    for _ in range(9):
        found.append(pauses.next_s())
        pauses.restarted()
        now += watch.STEADY_S
    assert found == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    now += 1
    assert pauses.next_s() == 0
