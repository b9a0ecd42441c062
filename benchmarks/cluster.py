"""The gain of several replicas: click rates of two, and hit rates when one is lost.

Click rates are measured at full size, with each replica pinned to a core, on rebuilt weights
unless `--repository` names an exported repository. Hit rates are measured with 300 images and
cheap models, and compared with the simulation in `hqsam_testing.spread`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hqsam_client import HQSam, RemoteImage
from hqsam_export import checkpoint, exporter
from hqsam_server import TritonServer, Tuning
from hqsam_testing import cheap_repository, rebuilt, spread
from hqsam_testing.api import new_png
from hqsam_testing.replicas import Replica
from hqsam_testing.waiting import TIMEOUT_S

from benchmarks import report
from benchmarks.contestants import jpeg

Row = dict[str, Any]

CLIENTS = 8
ROUND_S = 10.0
ROUNDS = 5
IMAGES = 300
CLICK = (300, 200)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, help="an exported repository to serve")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hqsam-bench-") as folder:
        repository = args.repository
        if repository is None:
            repository = Path(folder) / "model_repository"
            model = checkpoint.build_model(rebuilt.state_dict())
            exporter.export(model, repository, report=print)
        rows = [pinned(repository, Path(folder))]
        for count in (2, 3):
            rows += kept(count, Path(folder))
    report.write("cluster", "Several replicas", "make bench-cluster", rows)


def pinned(repository: Path, folder: Path) -> Row:
    """Compare the click rate of two replicas with that of one, each pinned to a core."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        servers = []
        for number, core in enumerate(cores[:2]):
            # Child processes inherit it.
            os.sched_setaffinity(0, {core})
            server = TritonServer(
                repository,
                tuning=Tuning(threads=1, cache_dir=folder / "cache"),
                environment={"HQSAM_STORE_FOLDER": str(folder / f"store{number}")},
            )
            servers.append(stack.enter_context(server))
        os.sched_setaffinity(0, set(cores))
        clients = {
            "one": stack.enter_context(HQSam(servers[0].grpc_url, timeout_s=TIMEOUT_S)),
            "two": stack.enter_context(
                HQSam(",".join(it.grpc_url for it in servers), timeout_s=TIMEOUT_S)
            ),
        }
        files = [jpeg(800, 600, seed) for seed in range(CLIENTS)]
        opened = {name: [sam.open(file) for file in files] for name, sam in clients.items()}
        rates: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, images in opened.items():
                rates[name].append(clicks_per_s(images))
    ratios = [two / one for one, two in zip(rates["one"], rates["two"], strict=True)]
    one, two = (statistics.median(rates[name]) for name in ("one", "two"))
    return {
        "what": "clicks of two replicas, each pinned to a core, against one pinned to a core",
        "figure": f"{statistics.median(ratios):.2f} times as many",
        "detail": f"{two:.1f} against {one:.1f} a second, {CLIENTS} clients on the same cores; "
        f"{min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds",
    }


def clicks_per_s(images: Sequence[RemoteImage]) -> float:
    """Return the answered clicks of all clients together, in a second."""
    answered = [0] * CLIENTS
    end = time.monotonic() + ROUND_S

    def click(number: int) -> None:
        share = images[number::CLIENTS]
        while time.monotonic() < end:
            share[answered[number] % len(share)].segment(points=[CLICK])
            answered[number] += 1

    threads = [threading.Thread(target=click, args=(number,)) for number in range(CLIENTS)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / (time.monotonic() - start)


def kept(count: int, folder: Path) -> Iterator[Row]:
    """Compare hit rates with simulated ones: when a replica is lost, and when it is back, empty."""
    repository = folder / "cheap"
    if not repository.exists():
        cheap_repository.write(repository)
    replicas = [Replica(repository, folder / f"replica{count}{n}") for n in range(count)]
    rates = []
    try:
        for replica in replicas:
            replica.start()
        url = ",".join(f"{host}:{port}" for host, port in (it.address for it in replicas))
        with HQSam(url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
            opened = [sam.open(new_png()) for _ in range(IMAGES)]
            replicas[0].kill()
            rates.append(hit_rate(opened, replicas[1:]))
            replicas[0].start()
            while sum(it.encodes() for it in replicas[:1]) == 0:
                # The client reconnects to the replica by itself, within seconds.
                sam.open(new_png())
            rates.append(hit_rate(opened, replicas))
    finally:
        for replica in replicas:
            replica.kill()
    members = list(range(count))
    everywhere, without = spread.ring(members), spread.ring(members[1:], members)
    keys = [f"image {number}" for number in range(100 * IMAGES)]
    simulated = spread.hit_rates(
        keys, [everywhere, without, everywhere], len(keys), [[], [0], [0]]
    )[1:]
    for what, real, expected in zip(("is lost", "is back, empty"), rates, simulated, strict=True):
        yield {
            "what": f"hit rate of a click on each image when one of {count} replicas {what}",
            "figure": f"{100 * real:.0f} %",
            "detail": f"{IMAGES} images; simulated: {100 * expected:.0f} %",
        }


def hit_rate(opened: Sequence[RemoteImage], replicas: Sequence[Replica]) -> float:
    """Click on each image once; return the fraction that was still stored."""
    before = sum(replica.encodes() for replica in replicas)
    for image in opened:
        image.segment(points=[(20, 30)])
    return 1 - (sum(replica.encodes() for replica in replicas) - before) / len(opened)


if __name__ == "__main__":
    main()
