"""Files are decoded in processes that have a budget, and that are replaced when they are lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import psutil
import pytest
from hqsam_client import HQSamError, ImageError
from hqsam_client.decoding.pool import Budget, DecoderLostError, Decoders
from hqsam_testing.decoding import act
from hqsam_testing.waiting import wait_until

ACT = f"{act.__module__}:{act.__name__}"


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(ACT, 2, Budget(cpu_s=1, memory_bytes=200 * 2**20, nice=3))
    yield decoders
    decoders.close()


def process(decoders: Decoders) -> int:
    """Return the process that gets the next file."""
    found: int = decoders.run(b"", {}).values["pid"]
    return found


def test_a_process_is_kept_for_the_next_file(decoders: Decoders) -> None:
    decoded = decoders.run(b"take1", {"number": 7})
    assert decoded.content == b"take1"
    assert decoded.values["options"] == {"number": 7}
    assert decoded.values["nice"] == psutil.Process().nice() + 3
    assert decoded.values["pid"] == process(decoders)


def test_a_file_that_takes_long_gives_way_to_all_others() -> None:
    decoders = Decoders(ACT, 1, Budget(cpu_s=10, memory_bytes=200 * 2**20, idle_after_s=0.2))
    slow = decoders.run(b"wait until idle", {}).values
    assert slow["policy"] == os.SCHED_IDLE
    # A process may not take its priority back, so the next file gets another one.
    following = decoders.run(b"", {}).values
    assert following["pid"] != slow["pid"]
    assert following["policy"] == os.SCHED_OTHER
    decoders.close()


def test_two_files_are_decoded_at_once(decoders: Decoders) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(decoders.run, b"SIGSTOP", {}, stop.is_set)
        wait_until(slow.running, "the first file to begin")
        assert decoders.run(b"", {}).content == b""
        stop.set()
        with pytest.raises(CancelledError):
            slow.result()


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("refuse", ImageError, "not that one"),
        ("spin", ImageError, "took more than 1 s of processor time to decode"),
        ("take1000", ImageError, "takes more than 209 MB of memory to decode"),
        ("SIGSEGV", ImageError, r"made its decoder crash \(SIGSEGV\)"),
        ("SIGKILL", DecoderLostError, "ended with status -9: try again"),
        ("fail", DecoderLostError, "ended with status 1: try again"),
    ],
)
def test_a_bad_file_is_one_error_and_the_next_file_is_decoded(
    decoders: Decoders, word: str, error: type[HQSamError], message: str
) -> None:
    with pytest.raises(error, match=message):
        decoders.run(word.encode(), {})
    assert decoders.run(b"next", {}).content == b"next"


def test_each_file_has_the_whole_budget(decoders: Decoders) -> None:
    # The process's own time grows, and so does its limit.
    first = process(decoders)
    for _ in range(3):
        decoders.run(b"take100", {})
    assert process(decoders) == first


def test_a_file_that_nobody_waits_for_ends_with_its_process(decoders: Decoders) -> None:
    doomed = process(decoders)
    with pytest.raises(CancelledError):
        decoders.run(b"spin", {}, lambda: True)
    assert not psutil.pid_exists(doomed)
    assert process(decoders) != doomed


def test_a_process_that_died_while_it_was_idle_is_replaced(decoders: Decoders) -> None:
    doomed = psutil.Process(process(decoders))
    doomed.kill()
    doomed.wait(60)
    assert process(decoders) != doomed.pid


def test_closing_ends_all_processes() -> None:
    decoders = Decoders(ACT, 2, Budget(cpu_s=1, memory_bytes=200 * 2**20))
    decoders.warm_up()
    pid = process(decoders)
    decoders.close()
    assert not psutil.pid_exists(pid)
