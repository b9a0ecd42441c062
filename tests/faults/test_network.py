"""Clients that vanish, fall silent, or do not read, while others click."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hqsam_client import ConnectionLostError, HQSam
from hqsam_testing.api import new_png
from hqsam_testing.waiting import TIMEOUT_S

from tests.faults.conftest import World
from tests.faults.forwarder import Forwarder

LARGE = 20_000_000


@pytest.fixture(autouse=True)
def _the_processes_are_the_same(world: World) -> Iterator[None]:
    before = world.server.instances()
    yield
    assert world.server.instances() == before


def large() -> bytes:
    """Return an image of many bytes that no test has sent before."""
    return new_png() + np.random.default_rng(0).bytes(LARGE)


def test_a_client_is_killed_in_the_middle_of_an_upload(world: World) -> None:
    with world.clicks() as clicks:
        for _ in range(3):
            with (
                Forwarder(world.server.grpc_url, max_up_bytes=LARGE // 2) as way,
                HQSam(way.url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam,
                ThreadPoolExecutor(1) as pool,
            ):
                upload = pool.submit(sam.embed, [large()])
                assert way.stuck.wait(TIMEOUT_S)
                way.reset()
                sam.close()
                assert isinstance(upload.result()[0].error, ConnectionLostError)
    assert not clicks.errors


def test_connections_are_half_open(world: World) -> None:
    # The server never learns that these clients are gone.
    ways = [Forwarder(world.server.grpc_url, max_up_bytes=LARGE // 2) for _ in range(5)]
    with world.clicks() as clicks:
        for way in ways:
            with (
                HQSam(way.url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam,
                ThreadPoolExecutor(1) as pool,
            ):
                upload = pool.submit(sam.embed, [large()])
                assert way.stuck.wait(TIMEOUT_S)
                sam.close()
                assert isinstance(upload.result()[0].error, ConnectionLostError)
        clicks.go_on()
    for way in ways:
        way.__exit__(None, None, None)
    assert not clicks.errors


@pytest.mark.slow
def test_a_client_does_not_read_its_answer(world: World) -> None:
    boxes = [(10, 10, 50, 30)] * 64
    with (
        Forwarder(world.server.grpc_url) as way,
        HQSam(way.url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as slow,
        ThreadPoolExecutor(1) as pool,
    ):
        image = slow.open(new_png())
        expected = image.segment(boxes=boxes)
        way.hold_answers()
        answer = pool.submit(image.segment, boxes=boxes)
        with world.clicks() as clicks:
            clicks.go_on(20)
            assert not answer.done()
        way.release_answers()
        for mask, right in zip(answer.result(), expected, strict=True):
            assert np.array_equal(mask.low_res_logits, right.low_res_logits)
    assert not clicks.errors


def test_a_connection_that_does_not_speak_http2_harms_no_other(world: World) -> None:
    host, _, port = world.server.grpc_url.rpartition(":")
    with world.clicks() as clicks:
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000, b"\x16\x03\x01\x02\0\x01"):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(nonsense)
        clicks.go_on()
    assert not clicks.errors


@pytest.mark.slow
def test_connections_that_do_nothing_do_not_use_up_the_files(start: Callable[..., World]) -> None:
    # The usual soft limit is 1,024 files. It was used up: nobody could connect, and a process that
    # was killed could not be replaced.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("the hard limit is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        world = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = world.server
    with contextlib.ExitStack() as stack:
        for address in (server.grpc_url, server.http_url, server.metrics_url.split("/")[2]):
            host, _, port = address.rpartition(":")
            for _ in range(1100):
                stack.enter_context(socket.create_connection((host, int(port))))
        with world.clicks():
            os.kill(server.instances()["segment_0_0"], signal.SIGKILL)
            server.wait_for_recovery(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.stop(signal.SIGTERM) == 0
