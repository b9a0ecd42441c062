"""The simulation that docs/scaling.md quotes: how images move between replicas."""

from __future__ import annotations

import pytest
from hqsam_testing.spread import Store, hit_rates, maglev, moved, ring

KEYS = [f"image {number}" for number in range(20_000)]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_only_the_images_of_a_lost_replica_move(count: int) -> None:
    everybody, rest = range(count), range(1, count)
    for before, after in (
        (ring(everybody), ring(rest, everybody)),
        (maglev(everybody), maglev(rest)),
    ):
        share = sum(before(key) == 0 for key in KEYS) / len(KEYS)
        assert share == pytest.approx(1 / count, rel=0.25)
        assert share <= moved(KEYS, before, after) <= share + 0.01


def test_a_rebuilt_ring_moves_images_of_other_replicas_too() -> None:
    everybody, rest = ring(range(10)), ring(range(1, 10))
    share = sum(everybody(key) == 0 for key in KEYS) / len(KEYS)
    assert moved(KEYS, everybody, rest) > share + 0.05


def test_a_store_drops_the_least_recently_used() -> None:
    store = Store(capacity=2)
    assert [store.get(key) for key in "abacb"] == [False, False, True, False, False]


def test_hit_rates_follow_from_what_moved() -> None:
    everybody, rest = maglev(range(3)), maglev(range(1, 3))
    rates = hit_rates(
        KEYS, [everybody, everybody, rest, rest, everybody], len(KEYS), [[], [], [0], [], [0]]
    )
    assert rates[0] == 0
    assert rates[1] == rates[3] == 1
    assert rates[2] == pytest.approx(2 / 3, abs=0.03)
    assert rates[4] == pytest.approx(2 / 3, abs=0.03)
