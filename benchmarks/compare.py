"""Two checkouts of this project against each other: both serve ViT-B at the same time, in turns.

Each checkout has a `.venv` with its own code (`make check` makes it). Each exports the same weights
and serves them. Weights are rebuilt (ViT-B, random) unless `HQSAM_CHECKPOINT` names a checkpoint.
An export takes minutes; pass the repository of an earlier one to leave it out.

A figure is the ratio of both sides in one round. The table has the median of all rounds, and the
smallest and the largest. Run it from the newer of the two: its runtime code runs both files of
`prompt_decoder` alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from hqsam_client import contract
from hqsam_testing import rebuilt

from benchmarks import contestants, report
from benchmarks.builds import Build, Clients, Server
from benchmarks.contestants import IMAGE, jpeg

COMMAND = "make bench-compare"
SIDES = ("before", "after")

POINTS = (1, 3, 4, 7, 8)
"""Points of a click, and of a click that was corrected. A point of padding is sent with them."""

CLICKS = 10
"""Clicks of each kind in a round; a figure is their median."""


class Figures:
    """What was measured: of each subject, each side's value in each round."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(
            lambda: {side: [] for side in SIDES}
        )

    def add(self, what: str, unit: str, side: str, value: float) -> None:
        """Add a value; of a unit that `_FORMATS` has."""
        self._values[what, unit][side].append(value)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the report."""
        return [_row(what, unit, values) for (what, unit), values in self._values.items()]


_FORMATS = {
    "ms": lambda value: f"{1e3 * value:.1f} ms",
    "s": lambda value: f"{value:.2f} s",
    "GB": lambda value: f"{value / 1e9:.2f} GB",
    "a second": lambda value: f"{value:.1f} a second",
    "times": lambda value: f"{value:.2f} times",
}
"""How a value is written, from seconds, bytes or a count."""


def _row(what: str, unit: str, values: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [
        after / before for before, after in zip(values["before"], values["after"], strict=True)
    ]
    medians = {side: _FORMATS[unit](statistics.median(values[side])) for side in SIDES}
    written = f"{medians['after']} against {medians['before']}"
    rounds = f"{len(ratios)} round{'s' if len(ratios) > 1 else ''}"
    return {
        "what": what,
        "figure": f"{statistics.median(ratios):.2f}",
        "detail": f"{min(ratios):.2f} to {max(ratios):.2f} in {rounds}; {written}",
    }


def main() -> None:
    """Run the comparison."""
    args = arguments()
    rounds = 3 if args.quick else 9
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hqsam-compare-")))
        stores = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        builds = {
            side: Build(
                checkout=getattr(args, side).resolve(),
                repository=(getattr(args, f"{side}_repository") or folder / side).resolve(),
                cache=folder / f"{side}-cache",
                store=stores / side,
            )
            for side in SIDES
        }
        export(builds, folder)
        figures = Figures()
        start(figures, builds, 1 if args.quick else 3)
        decode_alone(figures, builds, rounds)
        servers = {side: stack.enter_context(build.serve()) for side, build in builds.items()}
        image = folder / "image.jpg"
        image.write_bytes(jpeg(*IMAGE, seed=0))
        clients = {
            side: stack.enter_context(
                Clients(
                    server, image, builds[side].python if args.own_clients else Path(sys.executable)
                )
            )
            for side, server in servers.items()
        }
        for index in range(rounds):
            one_round(figures, clients, index, 2.0 if args.quick else 5.0)
            print(f"round {index + 1} of {rounds}", file=sys.stderr)
        remember(figures, servers)
        title = " against ".join(builds[side].name for side in reversed(SIDES))
    if args.quick:
        print(report.table(title, COMMAND, figures.rows()))
    else:
        report.write("compare", title, COMMAND, figures.rows())


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout")
    parser.add_argument("--after", type=Path, required=True, help="a checkout")
    for side in SIDES:
        parser.add_argument(f"--{side}-repository", type=Path, help="what it has exported before")
    parser.add_argument(
        "--own-clients",
        action="store_true",
        help="use each checkout's own client instead of this checkout's for both",
    )
    parser.add_argument(
        "--quick", action="store_true", help="take two minutes, and print the table only"
    )
    return parser.parse_args()


def export(builds: Mapping[str, Build], folder: Path) -> None:
    """Have each build export the checkpoint."""
    given = os.environ.get("HQSAM_CHECKPOINT")
    checkpoint = Path(given) if given else folder / "rebuilt.pth"
    if not given:
        torch.save(rebuilt.state_dict(), checkpoint)
    for build in builds.values():
        build.export(checkpoint)


def start(figures: Figures, builds: Mapping[str, Build], rounds: int) -> None:
    """Time starts until the server is ready; the first one compiles the models."""
    for index in range(1 + rounds):
        for side, build in builds.items():
            begin = time.perf_counter()
            with build.serve():
                elapsed = time.perf_counter() - begin
            state = "with" if index else "without"
            figures.add(f"start until ready, {state} compiled models", "s", side, elapsed)


def decode_alone(figures: Figures, builds: Mapping[str, Build], rounds: int) -> None:
    """Time each file of `prompt_decoder` in this process, and the arithmetic that it does."""
    spec = contract.PROMPT_DECODER
    precision = report.precision()
    multiply, product = contestants.matrix_product(precision)
    alone = {
        side: contestants.bare(build.repository, spec, precision) for side, build in builds.items()
    }
    operations = {
        side: contestants.operations(build.repository, spec) for side, build in builds.items()
    }
    for _ in range(rounds):
        seconds = report.in_turns({**alone, "product": multiply}, rounds=10)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for side in SIDES:
            limit = operations[side] * medians["product"] / product
            figures.add("`prompt_decoder` alone, one click", "ms", side, medians[side])
            what = (
                f"the same, by the time that the arithmetic of a {precision} matrix product takes"
            )
            figures.add(what, "times", side, medians[side] / limit)


def one_round(
    figures: Figures, clients: Mapping[str, Clients], index: int, window_s: float
) -> None:
    """Measure all that clients see once on each side.

    Args:
        figures: are added to.
        clients: of both sides.
        index: of the round. The other side begins in every other one.
        window_s: for rates.
    """
    sides = SIDES if index % 2 else SIDES[::-1]
    for points in POINTS:
        what = f"a click of {points} point{'s' if points > 1 else ''}"
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(CLICKS):
            for side in sides:
                seconds[side].append(clients[side]("click", points=points))
        for side in sides:
            figures.add(what, "ms", side, statistics.median(seconds[side]))
    for different, where in ((False, "one image"), (True, "an image each")):
        for side in sides:
            rate = clients[side]("rate", different=different, seconds=window_s)
            figures.add(f"clicks a second of 8 clients, {where}", "a second", side, rate)
    for side in sides:
        slowest = clients[side]("burst", bursts=CLICKS)
        what = "the slowest of 8 clicks that come together after a pause"
        figures.add(f"{what}, median", "ms", side, statistics.median(slowest))
        figures.add(f"{what}, of {CLICKS} times", "ms", side, max(slowest))
    for side in sides:
        figures.add("an encode", "s", side, clients[side]("embed"))
    for side in sides:
        click_s, encode_s = clients[side]("click_while_embedding", clicks=2 * CLICKS)
        figures.add("a click while somebody embeds", "ms", side, click_s)
        figures.add("an encode while somebody clicks", "s", side, encode_s)


def remember(figures: Figures, servers: Mapping[str, Server]) -> None:
    """Measure the memory after the same work."""
    for side, server in servers.items():
        for what, size in server.memory().items():
            figures.add(what, "GB", side, size)


if __name__ == "__main__":
    main()
