"""The members of the HQ-SAM family beside each other: encode, click, memory.

A server for each member runs at the same time, and calls take turns, so compare ratios, not times.
Weights are rebuilt (full size, random). The client runs on the servers' machine.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hqsam_client import HQSam, RemoteImage, contract
from hqsam_export.modeling import Architecture, ViT
from hqsam_server import TritonServer, Tuning
from hqsam_testing import rebuilt

from benchmarks import contestants, report
from benchmarks.serving import TWELVE_MEGAPIXELS, Row, connect, resident_bytes, row, segment

MEMBERS = {
    "light": rebuilt.LIGHT,
    "b": Architecture(ViT(768, 12, 12, (2, 5, 8, 11))),
    "l": Architecture(ViT(1024, 24, 16, (5, 11, 17, 23))),
    "h": Architecture(ViT(1280, 32, 16, (7, 15, 23, 31))),
}
"""By the names of `hqsam fetch --model`."""

ENCODES = 9
CLICKS = 40

_SERIAL = itertools.count(1)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--members",
        nargs="+",
        choices=MEMBERS,
        default=["b", "light"],
        help="the first is what the others are compared with; l and h need 16 GB and more",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hqsam-bench-") as folder, ExitStack() as stack:
        tuning = Tuning(cache_dir=Path(folder) / "cache")
        repositories = {name: export(name, Path(folder) / name) for name in args.members}
        servers = {
            name: stack.enter_context(TritonServer(repository, tuning=tuning))
            for name, repository in repositories.items()
        }
        clients = {name: stack.enter_context(connect(server)) for name, server in servers.items()}
        rows = [
            *encodes(clients),
            *encoders(repositories),
            *clicks(clients),
            *memory(servers),
        ]
    command = f"python -m benchmarks.family --members {' '.join(args.members)}"
    report.write("family", "The members of the family", command, rows)


def export(name: str, folder: Path) -> Path:
    """Export a member with rebuilt weights, and return the folder."""
    rebuilt.export(folder, MEMBERS[name])
    return folder


def encodes(clients: Mapping[str, HQSam]) -> Iterator[Row]:
    """Time encodes of 12 megapixels, from file to stored embedding."""
    file = contestants.jpeg(*TWELVE_MEGAPIXELS, seed=0)

    def encode(sam: HQSam) -> RemoteImage:
        return sam.open(contestants.jpeg_variant(file, next(_SERIAL)))

    seconds = report.in_turns(
        {name: partial(encode, sam) for name, sam in clients.items()}, ENCODES
    )
    yield from compared("encode a 12-megapixel JPEG, from file to stored embedding", seconds)


def encoders(repositories: Mapping[str, Path]) -> Iterator[Row]:
    """Time the bare encoders in-process, and the arithmetic alone."""
    precision = report.precision()
    multiply, product = contestants.matrix_product(precision)
    seconds = report.in_turns(
        {
            name: contestants.bare(repository, contract.ENCODER, precision)
            for name, repository in repositories.items()
        }
        | {"product": multiply},
        ENCODES,
    )
    rate = product / statistics.median(seconds.pop("product"))
    yield from compared("bare encoder in-process", seconds)
    for name, repository in repositories.items():
        work = contestants.operations(repository, contract.ENCODER)
        median = statistics.median(seconds[name])
        yield row(
            f"bare encoder of {name} against the time that the arithmetic alone takes",
            f"{median * rate / work:.2f} times as long",
            f"{median:.2f} s against {work / rate:.2f} s: {work / 1e9:.1f} GFLOP at "
            f"{rate / 1e9:.0f} GFLOP/s of a {precision} matrix product",
        )


def clicks(clients: Mapping[str, HQSam]) -> Iterator[Row]:
    """Time clicks on a stored image, to a mask of the image's size."""
    file = contestants.jpeg(*contestants.IMAGE, seed=0)
    images = {name: sam.open(file) for name, sam in clients.items()}
    seconds = report.in_turns(
        {name: partial(segment, image) for name, image in images.items()}, CLICKS
    )
    yield from compared("click, to a mask of the image's size", seconds)


def memory(servers: Mapping[str, TritonServer]) -> Iterator[Row]:
    """Measure resident memory, counting shared pages once."""
    for name, server in servers.items():
        sizes = resident_bytes(server)
        yield row(
            f"resident memory of the server of {name}",
            f"{sum(sizes.values()) / 1e9:.2f} GB",
            f"{sizes['`encoder`'] / 1e9:.2f} GB of it for the encoder",
        )


def compared(what: str, seconds: Mapping[str, list[float]]) -> Iterator[Row]:
    """Compare each member's times with the first one's."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians))
    for name, median in medians.items():
        yield row(
            f"{what}: {name}",
            f"{1e3 * median:.0f} ms",
            f"{median / medians[first]:.3f} of {first}'s; fastest of {len(seconds[name])} "
            f"{1e3 * min(seconds[name]):.0f} ms",
        )


if __name__ == "__main__":
    main()
