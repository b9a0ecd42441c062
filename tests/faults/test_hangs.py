"""Processes that hang, while clients click: they are found, killed and replaced.

A process that hangs looks alive: Triton still says that it is ready, and waits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer, supervise
from hqsam_server.launcher.process import family
from hqsam_server.store.embedding_store import entries
from hqsam_testing.api import new_png
from hqsam_testing.waiting import TIMEOUT_S, wait_until

from tests.faults.conftest import World
from tests.faults.hanging import write

INSTANCES = (
    "embed_0_0",
    "preprocess_0_0",
    "encoder_0_0",
    "features_0_0",
    "decoder_0_0",
)

LOST = {"UnavailableError", "ServerFailedError"}
"""What a click may end with whose process was killed, if the repeated ones are lost, too."""


@pytest.mark.parametrize(
    "instance",
    [
        "segment_0_0",
        *(pytest.param(instance, marks=pytest.mark.slow) for instance in INSTANCES),
    ],
)
def test_a_stopped_process_of_a_model_is_replaced(world: World, instance: str) -> None:
    before = world.server.recoveries()
    with world.clicks() as clicks:
        stopped = world.server.instances()[instance]
        os.kill(stopped, signal.SIGSTOP)
        # Mostly the model alone is loaded again. On a busy machine Triton may give the process up
        # first, and end when it dies.
        wait_until(
            lambda: (
                world.server.recoveries() > before
                and world.server.instances().get(instance, stopped) != stopped
            ),
            f"{instance} to be replaced",
        )
    assert not set(clicks.errors) - LOST
    with HQSam(world.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam:
        sam.open(new_png())


@pytest.mark.slow
def test_a_stopped_tritonserver_is_restarted(start: Callable[..., World]) -> None:
    world = start()
    with world.clicks() as clicks:
        world.server.triton.suspend()
        world.server.line("tritonserver is stopped and answers nothing: killing it")
        world.server.line("tritonserver was restarted in")
    assert not set(clicks.errors) - LOST
    assert world.server.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_pause_of_everything_is_no_hang(start: Callable[..., World]) -> None:
    # A laptop that is suspended, or a container that is paused: the supervisor is paused as well.
    world = start()
    processes = family(world.server.process.pid)
    for _ in range(3):
        for process in processes:
            process.suspend()
        time.sleep(3)  # longer than a stopped process is tolerated
        for process in reversed(processes):
            process.resume()
        with world.clicks():
            pass
    assert "killing" not in world.server.output()
    assert world.server.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_server_that_is_stopped_while_it_encodes_freezes_no_peer_on_its_store(
    start: Callable[..., World],
) -> None:
    stopped = start()
    peer = start(stopped.store)
    processes = family(stopped.server.process.pid)
    files = [new_png() for _ in range(12)]
    with (
        HQSam(stopped.server.grpc_url, embed_timeout_s=TIMEOUT_S) as sam,
        HQSam(peer.server.grpc_url, embed_timeout_s=TIMEOUT_S) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        under_way = pool.submit(sam.embed, files)
        wait_until(lambda: len(entries(stopped.store)) > 2, "some images to be encoded")
        for process in processes:
            process.suspend()
        try:
            # It holds the locks of what it encoded. Its peer encodes the same images, and others.
            results = other.embed([*files, new_png()])
            assert [result.error for result in results] == [None] * 13
            with peer.clicks() as clicks:
                pass
            assert not clicks.errors
        finally:
            for process in reversed(processes):
                process.resume()
        sam.close()
        under_way.result()
    assert peer.server.recoveries() == 0
    assert peer.server.stop(signal.SIGTERM) == 0


@contextmanager
def supervised(repository: Path, until: str) -> Iterator[list[str]]:
    """Supervise a server until it reports this; yield what it reports."""
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if until in line:
            raise KeyboardInterrupt

    with TritonServer(repository) as server:
        yield lines
        with pytest.raises(KeyboardInterrupt):
            supervise(server, report)


@pytest.mark.slow
def test_a_model_that_waits_for_ever_is_found_by_a_call(tmp_path: Path) -> None:
    repository = write(tmp_path / "repository")
    (repository / "waits").touch()
    with supervised(repository, "was restarted in") as lines:
        pass
    assert lines[0] == "preprocess does not answer, and nothing computes: killing tritonserver"


@pytest.mark.slow
def test_a_model_that_computes_for_long_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    repository = write(tmp_path / "repository")
    (repository / "computes").touch()
    # After 20 s it ends itself.
    with supervised(repository, "a process of the model preprocess died") as lines:
        pass
    assert len(lines) == 1


@pytest.mark.long
def test_a_server_that_is_starved_of_processor_is_not_restarted(
    start: Callable[..., World],
) -> None:
    world = start()
    processors = os.cpu_count() or 1
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(10 * processors)
    ]
    try:
        with world.clicks() as clicks:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                clicks.go_on()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert world.server.recoveries() == 0, world.server.output()
    assert world.server.stop(signal.SIGTERM) == 0
