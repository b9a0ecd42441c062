"""Eight clients load one server for a long time; whatever is wrong afterwards is an error.

::

    python -m benchmarks.soak --minutes 30

Images come and go in a store that holds fewer of them, clients click, draw boxes, send
batches, give up, and send what is no image. Every mask is compared, bit by bit, with the
one that the same server gave before anybody else used it. Ends with status 1 if a mask was
wrong, an error had no reason, a process was replaced, memory grew, or the store holds what
it should not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hqsam_client import (
    HQSam,
    HQSamError,
    ImageError,
    InvalidRequestError,
    Mask,
    RemoteImage,
    RequestTimeoutError,
    SupersededError,
)
from hqsam_server import TritonServer
from hqsam_server.launcher.process import instances
from hqsam_server.store.entry import max_file_bytes
from hqsam_testing.image_files import encoded
from hqsam_testing.oracle import images
from PIL import Image

from benchmarks import report

CLIENTS = 8
_WARM_UP_S = 60.0
_SAMPLE_S = 5.0
_PATIENCE_S = 300.0

_PROMPTS: dict[str, dict[str, Any]] = {
    "click": {"points": [(150, 100)]},
    "box": {"box": (30, 20, 250, 180)},
    "batch": {"boxes": [(10 * n, 10, 100 + 10 * n, 190) for n in range(5)]},
}


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        minutes: how long, or None to count operations.
        operations: how many, where minutes are None; half of them are the warm-up.
        images: how many there are.
        entries: how many of them the store holds.
        growth: what memory may grow by after the warm-up, as a part; None for anything.
    """

    minutes: float | None = 30.0
    operations: int = 0
    images: int = 36
    entries: int = 30
    growth: float | None = 0.05


@dataclass
class Findings:
    """What came of it."""

    operations: Counter[str] = field(default_factory=Counter)
    expected_errors: Counter[str] = field(default_factory=Counter)
    wrong_masks: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run, write the result, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=Plan.minutes)
    parser.add_argument("--output", type=Path, default=report.RESULTS / "soak.json")
    options = parser.parse_args(arguments)
    result = soak(Plan(minutes=options.minutes))
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 1 if result["violations"] else 0


def soak(plan: Plan) -> dict[str, Any]:
    """Load a server as planned; return what was counted, and what was violated."""
    with tempfile.TemporaryDirectory(prefix="hqsam-soak-", dir=_memory_folder()) as folder:
        store = Path(folder)
        environment = {
            "HQSAM_STORE_FOLDER": folder,
            "HQSAM_STORE_BYTES": str(plan.entries * max_file_bytes(half_precision=False)),
        }
        with TritonServer(environment=environment) as server:
            load = Load(server, plan)
            before = instances(server.pid)
            load.run()
            return {
                "command": "make soak",
                **report.machine(),
                "clients": CLIENTS,
                **vars(plan),
                "operations": dict(load.findings.operations),
                "expected_errors": dict(load.findings.expected_errors),
                "memory": load.memory.summary(),
                "store_entries": len(list(store.glob("*.safetensors"))),
                "violations": _violations(load, plan, store, before == instances(server.pid)),
            }


def _memory_folder() -> str | None:
    shared = Path("/dev/shm")  # noqa: S108
    return str(shared) if shared.is_dir() else None


def _violations(load: Load, plan: Plan, store: Path, same_processes: bool) -> list[str]:
    found = [*load.findings.wrong_masks, *load.findings.unexplained]
    if not same_processes:
        found.append("a process of a model was replaced")
    entries = len(list(store.glob("*.safetensors")))
    if entries > plan.entries:
        found.append(f"the store holds {entries} entries, expected at most {plan.entries}")
    found += [f"{path.name} was left in the store" for path in store.glob("*.writing")]
    for name, (first, last) in load.memory.summary().items():
        if plan.growth is not None and last > first * (1 + plan.growth):
            found.append(f"{name} grew from {first} to {last}, expected at most {plan.growth:.0%}")
    return found


class Memory:
    """What a server's processes hold, now and then: resident, and in shared memory."""

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._samples: list[tuple[int, int]] = []
        self._first: tuple[int, int] | None = None

    def sample(self) -> None:
        """Look once."""
        triton = psutil.Process(self._server.pid)
        resident = 0
        for process in [triton, *triton.children(recursive=True)]:
            # What several share counts once.
            resident += process.memory_full_info().pss
        shared = sum(
            path.stat().st_blocks * 512
            for path in Path("/dev/shm").glob(f"{self._server.shared_memory_prefix}*")  # noqa: S108
            if path.is_file()
        )
        self._samples.append((resident, shared))

    def warmed_up(self) -> None:
        """Take what the last samples say as the first figure."""
        self._first = self._median()

    def summary(self) -> dict[str, tuple[float, float]]:
        """Return MiB, by name, after the warm-up and at the end."""
        first, last = self._first or self._median(), self._median()
        names = ("resident_mib", "shared_memory_mib")
        return {
            name: (round(first[n] / 2**20, 1), round(last[n] / 2**20, 1))
            for n, name in enumerate(names)
        }

    def _median(self) -> tuple[int, int]:
        recent = self._samples[-5:]
        resident, shared = (int(statistics.median(it)) for it in zip(*recent, strict=True))
        return resident, shared


class Load:
    """The clients, what they know to be right, and what they find."""

    def __init__(self, server: TritonServer, plan: Plan) -> None:
        self._server = server
        self._plan = plan
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._end = 0.0
        self.findings = Findings()
        self.memory = Memory(server)
        self._files = [_image(number) for number in range(plan.images)]
        self._right = [self._references(file) for file in self._files]

    def _references(self, file: bytes) -> dict[str, list[Mask]]:
        with self._client() as sam:
            image = sam.open(file)
            return {name: _masks(image.segment(**it)) for name, it in _PROMPTS.items()}

    @contextmanager
    def _client(self, timeout_s: float = _PATIENCE_S) -> Iterator[HQSam]:
        with HQSam(self._server.grpc_url, timeout_s=timeout_s, embed_timeout_s=timeout_s) as sam:
            yield sam

    def run(self) -> None:
        """Warm up, take the first figures, go on, and take the last ones."""
        start = time.monotonic()
        if self._plan.minutes is None:
            self._phase(start, self._plan.operations // 2)
            self.memory.warmed_up()
            self._phase(start, self._plan.operations)
        else:
            total_s = 60 * self._plan.minutes
            self._phase(start + min(_WARM_UP_S, total_s / 2), 0)
            self.memory.warmed_up()
            self._phase(start + total_s, 0)

    def _phase(self, end: float, operations: int) -> None:
        def more() -> bool:
            if operations:
                return next(self._tickets) < operations
            return time.monotonic() < end

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._work, seed, more) for seed in range(CLIENTS)]
            while not all(client.done() for client in clients):
                self.memory.sample()
                threading.Event().wait(_SAMPLE_S if not operations else 0.5)
        for client in clients:
            client.result()
        self.memory.sample()

    def _work(self, seed: int, more: Callable[[], bool]) -> None:
        """Do one thing after the other, as one client."""
        draw = random.Random(f"{seed}-{self._plan}-{time.monotonic()}")  # noqa: S311
        deeds = [self._look] * 14 + [self._give_up, self._move_on, self._send_nonsense] * 2
        with self._client() as sam, self._client(0.03) as hasty:
            while more():
                deed = draw.choice(deeds)
                try:
                    deed(draw, hasty if deed == self._give_up else sam)
                except Exception as error:
                    with self._lock:
                        self.findings.unexplained.append(f"{deed.__name__}: {error!r}")

    def _count(self, what: str, error: HQSamError | None = None) -> None:
        with self._lock:
            self.findings.operations[what] += 1
            if error is not None:
                self.findings.expected_errors[f"{what}: {type(error).__name__}"] += 1

    def _number(self, draw: random.Random) -> int:
        """Return an image; most of the time one of those that stay in the store."""
        stay = max(1, self._plan.entries // 2)
        return draw.randrange(stay if draw.random() < 0.9 else self._plan.images)

    def _image(self, draw: random.Random, sam: HQSam) -> tuple[int, RemoteImage]:
        number = self._number(draw)
        return number, sam.open(self._files[number])

    def _look(self, draw: random.Random, sam: HQSam) -> None:
        """Open an image and segment it a few times, as somebody who clicks does."""
        number, image = self._image(draw, sam)
        for _ in range(draw.randrange(1, 4)):
            name = draw.choice(["click", "click", "click", "box", "batch"])
            self._compare(number, name, _masks(image.segment(**_PROMPTS[name])))
            self._count(name)

    def _give_up(self, draw: random.Random, hasty: HQSam) -> None:
        """Wait a moment only, for an image or a mask."""
        try:
            number, image = self._image(draw, hasty)
            self._compare(number, "batch", _masks(image.segment(**_PROMPTS["batch"])))
        except RequestTimeoutError as error:
            self._count("gave up", error)
        else:
            self._count("did not have to give up")

    def _move_on(self, draw: random.Random, sam: HQSam) -> None:
        """Click again before the answer is there."""
        number, image = self._image(draw, sam)
        with ThreadPoolExecutor(3) as pool:
            clicks = [pool.submit(lambda: image.latest.segment(**_PROMPTS["click"])) for _ in "123"]
        for click in clicks:
            try:
                self._compare(number, "click", _masks(click.result()))
            except SupersededError as error:
                self._count("moved on", error)
            else:
                self._count("moved on")

    def _send_nonsense(self, draw: random.Random, sam: HQSam) -> None:
        """Send an image that is damaged, or none."""
        file = self._files[self._number(draw)]
        nonsense = draw.choice([file[: len(file) // 2], file[:40], b"", b"GIF89a" + file])
        try:
            sam.open(nonsense)
        except (ImageError, InvalidRequestError) as error:
            self._count("nonsense", error)
        else:
            raise AssertionError("nonsense was taken for an image")

    def _compare(self, number: int, name: str, masks: list[Mask]) -> None:
        right = self._right[number][name]
        same = len(masks) == len(right) and all(
            np.array_equal(one.low_res_logits, other.low_res_logits) and one.iou == other.iou
            for one, other in zip(masks, right, strict=True)
        )
        if not same:
            with self._lock:
                self.findings.wrong_masks.append(f"image {number}, {name}: a wrong mask")


def _image(number: int) -> bytes:
    pixels = np.array(images.draw(300, 200))
    pixels[:20, :20] = (7 * number % 256, number, 90)
    return encoded(Image.fromarray(pixels))


def _masks(masks: Mask | list[Mask]) -> list[Mask]:
    return masks if isinstance(masks, list) else [masks]


if __name__ == "__main__":
    sys.exit(main())
