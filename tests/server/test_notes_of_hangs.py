"""What Triton said of a process that has been replaced is not held against the new one."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, cast

import pytest
from hqsam_server import TritonServer
from hqsam_server.launcher import hangs
from hqsam_testing.waiting import TIMEOUT_S, wait_until

SILENT = "Stub process 'segment_0_0' is not healthy."


class Server:
    """Answers a call to `segment` when it is told what."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.expected = frozenset({"segment_0_0"})
        self.called = threading.Semaphore(0)
        self.answers: SimpleQueue[str] = SimpleQueue()

    def call(self, model: str, _inputs: Any, _timeout_s: float) -> tuple[int, str]:
        assert model == "segment"
        self.called.release()
        return 500, self.answers.get(timeout=TIMEOUT_S)

    def wait_for_call(self) -> None:
        assert self.called.acquire(timeout=TIMEOUT_S)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process in place of the model's."""
    monkeypatch.setattr(hangs, "CALL_INTERVAL_S", 0.0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(hangs, "instances", lambda _pid: {process.pid: "segment_0_0"})
        yield process
        process.kill()


def test_only_who_was_silent_is_killed(model: subprocess.Popen[bytes]) -> None:
    server, said = Server(model.pid), list[str]()
    with hangs.Hangs(cast("TritonServer", server), said.append) as looking:
        server.wait_for_call()
        looking.forget()  # the model was loaded again while the call waited
        server.answers.put(SILENT)
        server.wait_for_call()
        looking.look()
        assert (said, model.poll()) == ([], None)
        server.answers.put(SILENT)
        server.wait_for_call()
        looking.forget()  # it was loaded again after the answer, while the next call waited
        looking.look()
        assert (said, model.poll()) == ([], None)
        for _ in range(2):
            server.answers.put(SILENT)
            server.wait_for_call()
        looking.look()
        assert said == ["segment_0_0 was silent during a call: killing it"]
        wait_until(lambda: model.poll() is not None, "it to be killed")
        server.answers.put("")
