"""A process of the front is killed when it hangs, and for nothing else."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hqsam_server.front.settings import SETTINGS_FILE, Front, Settings
from hqsam_server.launcher.front import FrontProcess
from hqsam_server.launcher.log import Log
from hqsam_server.launcher.options import Endpoint
from hqsam_server.launcher.services import Services
from hqsam_testing.waiting import wait_until

Start = Callable[[Callable[[], bool]], FrontProcess]


@pytest.fixture
def services(tmp_path: Path) -> Services:
    made = Services(dict.fromkeys(("grpc", "http", "metrics"), Endpoint()), tmp_path)
    made.choose_ports()
    return made


@pytest.fixture
def start(services: Services, tmp_path: Path) -> Iterator[Start]:
    """Starts the HTTP front, and asks a function whether it is alive."""
    settings = Settings(
        front=Front(),
        **services.endpoints,
        tls=None,
        message_bytes=1,
        prompts=1,
        exit_timeout_s=0,
    )
    settings.write(tmp_path / SETTINGS_FILE)
    with ExitStack() as stack:

        def start(is_alive: Callable[[], bool]) -> FrontProcess:
            log = Log(None, gpu=False, everything=False)
            process = FrontProcess("http", os.environ, tmp_path, log, is_alive)
            stack.callback(process.kill)
            wait_until(services.is_http_front_alive, "the front to answer")
            process.keep()
            return process

        yield start


def test_one_that_starts_slowly_is_not_killed_for_that(start: Start) -> None:
    """On a busy machine it was killed again and again before it could answer."""
    looked: list[int] = []

    def is_alive() -> bool:
        looked.append(process.pid)
        return process.pid == first

    process = start(is_alive)
    first = process.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(looked) >= 10 and looked[-10] != first, "ten looks at the new one")
    assert len({*looked} - {first}) == 1


def test_one_that_hangs_is_killed(services: Services, start: Start) -> None:
    process = start(services.is_http_front_alive)
    first = process.pid
    os.kill(first, signal.SIGSTOP)
    wait_until(lambda: process.pid != first, "another process")
    wait_until(services.is_http_front_alive, "the front to answer")


def test_callers_who_use_up_the_connections_of_its_ports_leave_it_alive(
    services: Services, start: Start
) -> None:
    start(services.is_http_front_alive)
    with ExitStack() as stack:
        for service in ("http", "metrics"):
            endpoint = services.endpoints[service]
            opened = [
                stack.enter_context(socket.create_connection((endpoint.host, endpoint.port)))
                for _ in range(Front().bounds.caller_connections + 1)
            ]
            assert opened[-1].recv(1) == b""  # one too many: it was closed
        assert services.is_http_front_alive()
