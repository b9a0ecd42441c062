"""Eight clients that load one server with a mixed workload, and what must hold meanwhile.

Images come and go in a store that holds fewer of them. Clients click, draw boxes, send batches,
zoom, look for everything, run into timeouts, supersede their own clicks, and send files that are no
image; one of them attacks half of the time. Every mask is compared bit by bit with the one that the
server gave while nobody else used it.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hqsam_client import (
    EverythingOptions,
    HQSam,
    HQSamError,
    ImageError,
    InvalidRequestError,
    Mask,
    RemoteImage,
    RequestTimeoutError,
    SupersededError,
)
from hqsam_server import Front, TritonServer
from hqsam_server.launcher.process import instances
from hqsam_server.store.entry import max_file_bytes
from PIL import Image

from hqsam_testing import http_attacks, processes, raw
from hqsam_testing.image_files import encoded
from hqsam_testing.oracle import images
from hqsam_testing.waiting import TIMEOUT_S

CLIENTS = 8
_WARM_UP_S = 60.0
_SAMPLE_S = 5.0
_HASTY_S = 0.03
"""Timeout of a client that runs into it."""

_PROMPTS: dict[str, dict[str, Any]] = {
    "click": {"points": [(150, 100)]},
    "box": {"box": (30, 20, 250, 180)},
    "batch": {"boxes": [(10 * n, 10, 100 + 10 * n, 190) for n in range(5)]},
}


# Messages over gRPC that are refused: each ended Triton, or filled its memory.
_OVERFLOWING = raw.Raw("FP32", (2**62 + 1, 1), bytes(4))
_ATTACKS = {
    "a shape that overflows": raw.request("segment", {"point_coords": _OVERFLOWING}),
    "a model of the inside": raw.request("decoder", {"x": raw.floats(np.zeros(2**21))}),
    "no image": raw.request("embed", {"encoded_image": raw.Raw("UINT8", (2**21,), bytes(2**21))}),
    "an unknown image": raw.request("segment", raw.valid("segment")),
}
_REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}

_EVERYTHING = EverythingOptions(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)

_SEARCHES: dict[str, Callable[[RemoteImage], Sequence[Mask]]] = {
    "zoom": lambda image: [image.zoom(box=(120, 80, 170, 120)).inner],
    "everything": lambda image: image.everything(_EVERYTHING),
}


@dataclass(frozen=True)
class Plan:
    """How long, and with what.

    Attributes:
        minutes: duration; None to count operations instead.
        operations: number of operations, where `minutes` is None. Half of them are the warm-up.
        images: number of images.
        entries: number of images that the store holds.
        growth: fraction by which memory may grow after the warm-up; None for no limit.
    """

    minutes: float | None = 30.0
    operations: int = 0
    images: int = 36
    entries: int = 30
    growth: float | None = 0.05


@dataclass
class Findings:
    """What the clients counted and found."""

    operations: Counter[str] = field(default_factory=Counter)
    expected_errors: Counter[str] = field(default_factory=Counter)
    wrong_masks: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)


def soak(plan: Plan) -> dict[str, Any]:
    """Load a server as planned; return the counts and the violations."""
    with tempfile.TemporaryDirectory(prefix="hqsam-soak-", dir=_memory_folder()) as folder:
        store = Path(folder)
        environment = {
            "HQSAM_STORE_FOLDER": folder,
            "HQSAM_STORE_BYTES": str(plan.entries * max_file_bytes(half_precision=False)),
        }
        with TritonServer(environment=environment, front=Front(http=True)) as server:
            load = Load(server, plan)
            before = _processes(server)
            load.run()
            return {
                "clients": CLIENTS,
                **vars(plan),
                "operations": dict(load.findings.operations),
                "expected_errors": dict(load.findings.expected_errors),
                "memory": load.memory.summary(),
                "store_entries": len(list(store.glob("*.safetensors"))),
                "violations": _violations(load, plan, store, before == _processes(server)),
            }


def _processes(server: TritonServer) -> tuple[Any, Any]:
    return instances(server.pid), server.front_pids


def _memory_folder() -> str | None:
    shared = Path("/dev/shm")  # noqa: S108
    return str(shared) if shared.is_dir() else None


def _violations(load: Load, plan: Plan, store: Path, same_processes: bool) -> list[str]:
    found = [*load.findings.wrong_masks, *load.findings.unexplained]
    if not same_processes:
        found.append("a process of a model or of the front was replaced")
    entries = len(list(store.glob("*.safetensors")))
    if entries > plan.entries:
        found.append(f"the store holds {entries} entries, expected at most {plan.entries}")
    found += [f"{path.name} was left in the store" for path in store.glob("*.writing")]
    for name, (first, last) in load.memory.summary().items():
        if plan.growth is not None and last > first * (1 + plan.growth):
            found.append(f"{name} grew from {first} to {last}, expected at most {plan.growth:.0%}")
    return found


class Memory:
    """Samples of a server's memory: resident, and in /dev/shm."""

    def __init__(self, server: TritonServer) -> None:
        self._pid = server.pid
        self._prefix = server.shared_memory_prefix
        self._samples: list[tuple[int, int]] = []
        self._first: tuple[int, int] | None = None

    def sample(self) -> None:
        """Take a sample."""
        shared = sum(
            path.stat().st_blocks * 512
            for path in processes.shared_memory(self._prefix)
            if path.is_file()
        )
        self._samples.append((processes.memory_bytes(self._pid), shared))

    def warmed_up(self) -> None:
        """Keep the median of the last samples as the first figure."""
        self._first = self._median()

    def summary(self) -> dict[str, tuple[float, float]]:
        """Return MiB after the warm-up and at the end, by name."""
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
    """The clients, the masks that they expect, and what they find."""

    def __init__(self, server: TritonServer, plan: Plan) -> None:
        self._server = server
        self._plan = plan
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._end = 0.0
        self.findings = Findings()
        self.memory = Memory(server)
        self._files = [_image(number) for number in range(plan.images)]
        self._expected = [self._references(file) for file in self._files]

    def _references(self, file: bytes) -> dict[str, Sequence[Mask]]:
        with self._client() as sam:
            image = sam.open(file)
            found = {name: _masks(image.segment(**it)) for name, it in _PROMPTS.items()}
            return {**found, **{name: look(image) for name, look in _SEARCHES.items()}}

    @contextmanager
    def _client(self, timeout_s: float = TIMEOUT_S) -> Iterator[HQSam]:
        with HQSam(self._server.grpc_url, timeout_s=timeout_s, embed_timeout_s=timeout_s) as sam:
            yield sam

    def run(self) -> None:
        """Warm up, take the first figures, continue, and take the last ones."""
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
        """Draw one operation after the other, as one client."""
        draw = random.Random(f"{seed}-{self._plan}-{time.monotonic()}")  # noqa: S311
        operations: list[Callable[[random.Random, HQSam], None]] = [self._click_around] * 14
        operations += [self._time_out, self._supersede, self._send_nonsense, self._look] * 2
        if seed == 0:
            operations += [self._attack] * len(operations)
        with self._client() as sam, self._client(_HASTY_S) as hasty:
            while more():
                operation = draw.choice(operations)
                try:
                    operation(draw, hasty if operation == self._time_out else sam)
                except Exception as error:
                    with self._lock:
                        self.findings.unexplained.append(f"{operation.__name__}: {error!r}")

    def _count(self, what: str, error: HQSamError | None = None) -> None:
        with self._lock:
            self.findings.operations[what] += 1
            if error is not None:
                self.findings.expected_errors[f"{what}: {type(error).__name__}"] += 1

    def _number(self, draw: random.Random) -> int:
        """Return the number of an image; mostly one of those that stay in the store."""
        stay = max(1, self._plan.entries // 2)
        return draw.randrange(stay if draw.random() < 0.9 else self._plan.images)

    def _open(self, draw: random.Random, sam: HQSam) -> tuple[int, RemoteImage]:
        number = self._number(draw)
        return number, sam.open(self._files[number])

    def _click_around(self, draw: random.Random, sam: HQSam) -> None:
        """Open an image and segment it a few times, as a user does."""
        number, image = self._open(draw, sam)
        for _ in range(draw.randrange(1, 4)):
            name = draw.choice(["click", "click", "click", "box", "batch"])
            self._compare(number, name, _masks(image.segment(**_PROMPTS[name])))
            self._count(name)

    def _look(self, draw: random.Random, sam: HQSam) -> None:
        """Zoom into an image, or look for everything in it."""
        number, image = self._open(draw, sam)
        name = draw.choice([*_SEARCHES])
        self._compare(number, name, _SEARCHES[name](image))
        self._count(name)

    def _time_out(self, draw: random.Random, sam: HQSam) -> None:
        """Ask for masks with a timeout that is too short most of the time."""
        try:
            number, image = self._open(draw, sam)
            self._compare(number, "batch", _masks(image.segment(**_PROMPTS["batch"])))
        except RequestTimeoutError as error:
            self._count("timed out", error)
        else:
            self._count("answered in time")

    def _supersede(self, draw: random.Random, sam: HQSam) -> None:
        """Click again before the answer has come."""
        number, image = self._open(draw, sam)
        with ThreadPoolExecutor(3) as pool:
            clicks = [pool.submit(lambda: image.latest.segment(**_PROMPTS["click"])) for _ in "123"]
        for click in clicks:
            try:
                self._compare(number, "click", _masks(click.result()))
            except SupersededError as error:
                self._count("superseded", error)
            else:
                self._count("superseded")

    def _send_nonsense(self, draw: random.Random, sam: HQSam) -> None:
        """Send a damaged image, or no image at all."""
        file = self._files[self._number(draw)]
        nonsense = draw.choice([file[: len(file) // 2], file[:40], b"", b"GIF89a" + file])
        try:
            sam.open(nonsense)
        except (ImageError, InvalidRequestError) as error:
            self._count("nonsense", error)
        else:
            raise AssertionError("a damaged file was accepted as an image")

    def _attack(self, draw: random.Random, _: HQSam) -> None:
        """Send what harmed a Triton that callers reached directly."""
        if draw.random() < 0.5:
            name = draw.choice([*http_attacks.ATTACKS])
            url = draw.choice([self._server.http_url, self._server.metrics_url])
            status = http_attacks.answer(url, http_attacks.ATTACKS[name])
            assert status == 0 or 400 <= status < 500, f"{name}: {status}"
        else:
            name = draw.choice([*_ATTACKS])
            with raw.connect(self._server.grpc_url) as wire:
                code, message, _ = wire.send(_ATTACKS[name])
            assert code in _REFUSALS, f"{name}: {code} {message}"
        self._count("attack")

    def _compare(self, number: int, name: str, masks: Sequence[Mask]) -> None:
        expected = self._expected[number][name]
        same = len(masks) == len(expected) and all(map(_is_same, masks, expected))
        if not same:
            with self._lock:
                self.findings.wrong_masks.append(f"image {number}, {name}: a wrong mask")


def _image(number: int) -> bytes:
    pixels = np.array(images.draw(300, 200))
    pixels[:20, :20] = (7 * number % 256, number, 90)
    return encoded(Image.fromarray(pixels))


def _is_same(one: Mask, other: Mask) -> bool:
    if one.has_logits and not np.array_equal(one.low_res_logits, other.low_res_logits):
        return False
    same_runs = np.array_equal(one.run_lengths.counts, other.run_lengths.counts)
    return same_runs and one.iou == other.iou


def _masks(masks: Mask | list[Mask]) -> list[Mask]:
    return masks if isinstance(masks, list) else [masks]
