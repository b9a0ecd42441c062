"""A simulation of which replica has which image, for replicas that join and leave.

The two ways of spreading images that this project uses:
- `Ring`: gRPC's ring hash in the client (gRFC A42), a ring of at least 1024 entries;
- `Maglev`: Envoy's, a table of 65,537 entries (Eisenbud et al., NSDI 2016).

`make bench-cluster` compares the simulation with real replicas.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

Spread = Callable[[str], int]
"""Maps an image to its replica."""

RING_SIZE = 1024
TABLE_SIZE = 65_537


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def ring(replicas: Sequence[int], members: Sequence[int] | None = None) -> Spread:
    """Return the spread of a ring.

    Args:
        replicas: the healthy ones.
        members: the replicas that the ring has entries of. Those of unhealthy ones are skipped,
            as in gRPC. None for a ring of `replicas` only, as in Envoy, which gives each
            replica more entries when there are fewer of them.
    """
    members = replicas if members is None else members
    each = math.ceil(RING_SIZE / len(members))
    entries = sorted((_hash(f"{it}_{number}"), it) for it in members for number in range(each))
    entries = [entry for entry in entries if entry[1] in replicas]
    hashes = [entry[0] for entry in entries]
    return lambda key: entries[bisect.bisect_left(hashes, _hash(key)) % len(entries)][1]


def maglev(replicas: Sequence[int]) -> Spread:
    """Return the spread of a Maglev table."""
    starts = [
        (_hash(f"offset {it}") % TABLE_SIZE, _hash(f"skip {it}") % (TABLE_SIZE - 1) + 1)
        for it in replicas
    ]
    table = [-1] * TABLE_SIZE
    steps = [0] * len(replicas)
    filled = 0
    while True:
        for index, (offset, skip) in enumerate(starts):
            while table[place := (offset + steps[index] * skip) % TABLE_SIZE] != -1:
                steps[index] += 1
            table[place] = replicas[index]
            filled += 1
            if filled == TABLE_SIZE:
                return lambda key: table[_hash(key) % TABLE_SIZE]


def moved(keys: Sequence[str], before: Spread, after: Spread) -> float:
    """Return the fraction of images that change their replica."""
    return sum(before(key) != after(key) for key in keys) / len(keys)


class Store:
    """A replica's store, which drops the least recently used image first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, None] = OrderedDict()

    def get(self, key: str) -> bool:
        """Return whether an image is stored, and store it."""
        hit = key in self._entries
        self._entries[key] = None
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return hit


def hit_rates(
    keys: Sequence[str], rounds: Sequence[Spread], capacity: int, lost: Sequence[Sequence[int]]
) -> list[float]:
    """Click on every image once a round, and return the fraction of hits of each round.

    Args:
        keys: the images, in the order of the clicks.
        rounds: the spread of each round.
        capacity: number of images that a replica stores.
        lost: for each round, the replicas that begin it with an empty store.
    """
    stores: dict[int, Store] = {}
    rates = []
    for spread, emptied in zip(rounds, lost, strict=True):
        for replica in emptied:
            stores.pop(replica, None)
        hits = 0
        for key in keys:
            hits += stores.setdefault(spread(key), Store(capacity)).get(key)
        rates.append(hits / len(keys))
    return rates
