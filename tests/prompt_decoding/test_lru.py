from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hqsam_server.prompt_decoding.lru import Lru
from hqsam_testing.waiting import TIMEOUT_S


def test_the_least_recently_used_values_leave_when_others_need_their_room() -> None:
    seen: list[tuple[int, int]] = []
    lru: Lru[str, int] = Lru(10, lambda value: value, lambda *state: seen.append(state))
    made: list[str] = []

    def get(key: str, value: int) -> None:
        def make() -> int:
            made.append(key)
            return value

        assert lru.get(key, make) == value

    get("a", 4)
    get("b", 5)
    get("a", 4)
    get("c", 3)  # in place of b
    get("a", 4)
    get("b", 5)
    assert made == ["a", "b", "c", "b"]
    assert seen == [(4, 1), (9, 2), (7, 2), (9, 2)]


def test_a_value_larger_than_all_room_is_kept_alone() -> None:
    lru: Lru[str, int] = Lru(10, lambda value: value)
    lru.get("small", lambda: 1)
    assert lru.get("large", lambda: 100) == 100
    assert lru.get("large", pytest.fail) == 100


def test_threads_that_want_the_same_value_wait_for_one_and_others_do_not() -> None:
    lru: Lru[str, int] = Lru(10, lambda value: 1)
    begun, goes_on = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        assert goes_on.wait(TIMEOUT_S)
        return 1

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(lru.get, "slow", slow)
        assert begun.wait(TIMEOUT_S)
        second = pool.submit(lru.get, "slow", lambda: 2)
        assert lru.get("other", lambda: 3) == 3
        goes_on.set()
        assert first.result(TIMEOUT_S) == second.result(TIMEOUT_S) == 1


def test_a_value_that_could_not_be_made_is_made_again() -> None:
    lru: Lru[str, int] = Lru(10, lambda value: 1)
    with pytest.raises(ZeroDivisionError):
        lru.get("a", lambda: 1 // 0)
    assert lru.get("a", lambda: 1) == 1
