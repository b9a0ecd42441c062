"""Serving at full size, and its alternatives: encode, click, load, memory.

All contestants run in turns, in one run on one machine: compare ratios, not times. Weights are
rebuilt (full size, random) unless `HQSAM_CHECKPOINT` names a checkpoint. The clients run on the
server's machine and share its cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hqsam_client import HQSam, Mask, RemoteImage, contract
from hqsam_client.shared.upload import prepare
from hqsam_export import checkpoint, exporter
from hqsam_server import Front, TritonServer, Tuning
from hqsam_server.models.preprocess import Limits
from hqsam_server.store.entry import Embedding, dump
from hqsam_testing import rebuilt
from hqsam_testing.preprocess import preprocess
from hqsam_testing.processes import memory_bytes
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray

from benchmarks import contestants, report
from benchmarks.contestants import CLICK, IMAGE, jpeg, jpeg_variant
from benchmarks.peak import Peak

Row = dict[str, Any]

TWELVE_MEGAPIXELS = (4000, 3000)
CLIENTS = (1, 2, 4, 8, 16)
IMAGES = 4
"""Number of images that concurrent clients click on."""
PROMPTS = (4, 16, 64)
ROUND_S = 5.0
CORRECTED = (4, 8)
"""Points of clicks that were corrected."""

_SERIAL = itertools.count(1)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, help="an exported repository to serve")
    args = parser.parse_args()
    source = os.environ.get("HQSAM_CHECKPOINT")
    model = (
        checkpoint.load_model(Path(source))
        if source
        else checkpoint.build_model(rebuilt.state_dict())
    )
    with (
        tempfile.TemporaryDirectory(prefix="hqsam-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="hqsam-bench-", dir="/dev/shm") as store,
    ):
        repository = args.repository or Path(folder) / "model_repository"
        if args.repository is None:
            exporter.export(model, repository, report=print)
        del model
        operations = {
            spec.name: contestants.operations(repository, spec)
            for spec in (contract.ENCODER, contract.PROMPT_DECODER)
        }
        tuning = Tuning(cache_dir=Path(folder) / "cache")
        environment = {"HQSAM_STORE_FOLDER": store}
        rows = [*start_up(repository, tuning, environment)]
        # The contestant that sends embeddings with each click calls these two itself.
        front = Front(open_models=(contract.ENCODER.name, contract.DECODER.name))
        with (
            TritonServer(repository, tuning=tuning, environment=environment, front=front) as server,
            connect(server) as sam,
        ):
            rows += encode(sam, repository, operations)
            rows += click(sam, server, repository, operations)
            rows += batches(sam)
            rows += wire(sam, server)
            rows += stages(sam, server, repository)
            rows += under_load(sam, server)
            rows += memory(sam, server, Path(store))
    report.write("serving", "Serving at full size", "make bench", rows)


@contextmanager
def connect(server: TritonServer) -> Iterator[HQSam]:
    """Yield a client with long timeouts."""
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
        yield sam


def new_image(size: tuple[int, int] = IMAGE) -> bytes:
    """Return an image file that the server has not stored."""
    return jpeg_variant(jpeg(*size, seed=0), next(_SERIAL))


def row(what: str, figure: str, detail: str) -> Row:
    """Return a row of the report."""
    return {"what": what, "figure": figure, "detail": detail}


def start_up(repository: Path, tuning: Tuning, environment: dict[str, str]) -> Iterator[Row]:
    """Time the start, with and without compiled models, and the first requests."""
    for what in ("without compiled models", "with compiled models in `cache_dir`"):
        start = time.perf_counter()
        with (
            TritonServer(repository, tuning=tuning, environment=environment) as server,
            connect(server) as sam,
        ):
            ready = time.perf_counter()
            image = sam.open(new_image())
            encoded = time.perf_counter()
            segment(image)
            done = time.perf_counter()
        yield row(
            f"start until ready, {what}",
            f"{ready - start:.1f} s",
            f"then the first encode {encoded - ready:.2f} s, the first click "
            f"{1e3 * (done - encoded):.0f} ms",
        )


def encode(sam: HQSam, repository: Path, operations: dict[str, float]) -> Iterator[Row]:
    """Time an encode of 12 megapixels, from file to stored embedding, and its alternatives."""
    file = jpeg(*TWELVE_MEGAPIXELS, seed=0)
    precision = report.precision()
    official = contestants.Official()
    multiply, product = contestants.matrix_product(precision)
    seconds = report.in_turns(
        {
            "embed": lambda: sam.open(jpeg_variant(file, next(_SERIAL))),
            "official": lambda: official.encode(file),
            "provider": contestants.bare(repository, contract.ENCODER, None),
            "product": multiply,
        },
        rounds=3,
    )
    seconds |= report.in_turns(
        {
            "embed": lambda: sam.open(jpeg_variant(file, next(_SERIAL))),
            "encoder": contestants.bare(repository, contract.ENCODER, precision),
            "product": multiply,
        },
        rounds=15,
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    embed = medians["embed"]
    limit = operations[contract.ENCODER.name] * medians["product"] / product
    figures = report.summary(seconds["embed"])
    yield row(
        "encode a 12-megapixel JPEG, from file to stored embedding",
        f"p50 {figures['median_ms'] / 1e3:.2f} s, p95 {figures['p95_ms'] / 1e3:.2f} s",
        f"fastest {figures['min_ms'] / 1e3:.2f} s, {figures['runs']} runs",
    )
    yield row(
        "the same against PyTorch eager with its own preprocessing",
        f"{medians['official'] / embed:.1f} times faster",
        f"{embed:.2f} s against {medians['official']:.2f} s",
    )
    yield row(
        "the same against the bare ONNX on the default CPU provider, image read beforehand",
        f"{medians['provider'] / embed:.1f} times faster",
        f"{embed:.2f} s against {medians['provider']:.2f} s",
    )
    what = (
        f"{operations[contract.ENCODER.name] / 1e9:.0f} GFLOP at "
        f"{product / medians['product'] / 1e9:.0f} GFLOP/s of a {precision} matrix product"
    )
    yield row(
        "the same against the time that the arithmetic alone takes",
        f"{embed / limit:.2f} times as long",
        f"{embed:.2f} s against {limit:.2f} s: {what}",
    )
    yield row(
        "bare `encoder` in-process against the time that the arithmetic alone takes",
        f"{medians['encoder'] / limit:.2f} times as long",
        f"{medians['encoder']:.2f} s against {limit:.2f} s",
    )


def segment(image: RemoteImage, points: int = 1) -> NDArray[np.bool_]:
    """Segment one object by a click and corrections; bring its mask to the image's size."""
    more = [(50 * i, 60 * i) for i in range(1, points)]
    return image.segment(points=[CLICK, *more]).array


def click(
    sam: HQSam, server: TritonServer, repository: Path, operations: dict[str, float]
) -> Iterator[Row]:
    """Time one click, and its alternatives."""
    image = sam.open(new_image())
    official = contestants.Official()
    encoded = official.encode(new_image())
    sent = contestants.EmbeddingsSent(server.grpc_url)
    precision = report.precision()
    multiply, product = contestants.matrix_product(precision)
    seconds = report.in_turns(
        {
            "click": lambda: segment(image),
            **{f"{points} points": partial(segment, image, points) for points in CORRECTED},
            "official": lambda: official.click(encoded, IMAGE),
            "sent": sent.click,
            "bare": contestants.bare(repository, contract.PROMPT_DECODER, precision),
            "product": multiply,
        },
        rounds=40,
        warm_up=5,
    )
    sent.close()
    figures = report.summary(seconds["click"])
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    limit = operations[contract.PROMPT_DECODER.name] * medians["product"] / product
    yield row(
        "a click over gRPC, mask in the pixels of the image",
        f"p50 {figures['median_ms']:.1f} ms, p95 {figures['p95_ms']:.1f} ms, "
        f"p99 {figures['p99_ms']:.1f} ms",
        f"fastest {figures['min_ms']:.1f} ms, {figures['runs']} runs",
    )
    for points in CORRECTED:
        corrected = report.summary(seconds[f"{points} points"])
        yield row(
            f"a click corrected to {points} points, against a click of one",
            f"{corrected['median_ms'] / figures['median_ms']:.2f} times as long",
            f"p50 {corrected['median_ms']:.1f} ms, p95 {corrected['p95_ms']:.1f} ms",
        )
    for name, what in (
        ("official", "PyTorch eager, image encoded beforehand"),
        ("sent", "a client that sends embeddings to `decoder`"),
    ):
        yield row(
            f"the same against {what}",
            f"{medians[name] / medians['click']:.1f} times faster",
            f"{medians['click']:.1f} ms against {medians[name]:.1f} ms",
        )
    yield row(
        "the same against bare `prompt_decoder` in-process",
        f"{medians['click'] - medians['bare']:.1f} ms more",
        f"{medians['click']:.1f} ms against {medians['bare']:.1f} ms",
    )
    yield row(
        "bare `prompt_decoder` against the time that the arithmetic alone takes",
        f"{medians['bare'] / limit:.2f} times as long",
        f"{medians['bare']:.1f} ms against {limit:.1f} ms: "
        f"{operations[contract.PROMPT_DECODER.name] / 1e9:.1f} GFLOP at "
        f"{product / medians['product'] / 1e6:.0f} GFLOP/s",
    )
    yield from rates(server, 1e3 / medians["bare"])


def rates(server: TritonServer, bare: float) -> Iterator[Row]:
    """Compare clicks a second with those of bare `prompt_decoder`."""
    files = [new_image() for _ in range(max(CLIENTS))]
    for clients, images in (*((clients, IMAGES) for clients in CLIENTS), (8, 1), (8, 8)):
        rate = clicks_a_second(server, files[:images], clients)
        used = min(clients, images)
        yield row(
            f"clicks a second of {clients} concurrent client{'s' if clients > 1 else ''} on {used} "
            f"image{'s' if used > 1 else ''} against bare `prompt_decoder` in a loop",
            f"{rate / bare:.2f} times as many",
            f"{rate:.1f} against {bare:.1f}",
        )


def clicks_a_second(server: TritonServer, files: list[bytes], clients: int) -> float:
    """Return the click rate of all clients together; each clicks on one of the images."""
    done = [0] * clients
    begin = threading.Barrier(clients + 1)
    stop = threading.Event()

    def use(number: int) -> None:
        with connect(server) as sam:
            image = sam.open(files[number % len(files)])
            segment(image)
            begin.wait()
            while not stop.is_set():
                segment(image)
                done[number] += 1

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(use, number) for number in range(clients)]
        begin.wait()
        start = time.perf_counter()
        stop.wait(ROUND_S)
        rate = sum(done) / (time.perf_counter() - start)
        stop.set()
        for future in futures:
            future.result()
    return rate


def batches(sam: HQSam) -> Iterator[Row]:
    """Compare several prompts in one request with one request for each."""
    image = sam.open(new_image())
    for count in PROMPTS:
        together, apart = prompts_a_second(image, count)
        yield row(
            f"prompts a second, {count} in a request, against one in each request",
            f"{together / apart:.2f} times as many",
            f"{together:.1f} against {apart:.1f}",
        )


def prompts_a_second(image: RemoteImage, count: int) -> tuple[float, float]:
    """Return prompts a second, in one request and in one request for each."""
    boxes = [(10 * i, 20, 300 + 10 * i, 500) for i in range(count)]
    seconds = report.in_turns(
        {
            "together": lambda: image.segment(boxes=boxes),
            "apart": lambda: [image.segment(box=box) for box in boxes],
        },
        rounds=3,
    )
    together, apart = (statistics.median(seconds[name]) for name in ("together", "apart"))
    return count / together, count / apart


def wire(sam: HQSam, server: TritonServer) -> Iterator[Row]:
    """Count the bytes on the loopback interface, TCP headers included."""
    file = jpeg(*TWELVE_MEGAPIXELS, seed=next(_SERIAL))
    sent = contestants.EmbeddingsSent(server.grpc_url)
    image = sam.open(new_image())
    segment(image)
    for what, ours, theirs, detail in (
        ("an encode", lambda: sam.open(file), sent.encode, f"a JPEG of {len(file) / 1e6:.1f} MB"),
        ("a click", lambda: segment(image), sent.click, "the logits of a mask are 0.26 MB"),
    ):
        one, other = bytes_of(ours), bytes_of(theirs)
        yield row(
            f"bytes on the wire for {what}, against a client that keeps the embeddings",
            f"{other / one:.0f} times fewer",
            f"{one / 1e6:.2f} MB against {other / 1e6:.1f} MB; {detail}",
        )
    sent.close()


def bytes_of(run: Callable[[], object]) -> int:
    """Run something, and return the bytes that went over the loopback interface."""
    before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
    run()
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before)


def counted_s(server: TritonServer) -> dict[tuple[str, str], float]:
    """Return Triton's counters of time by (model, what), in seconds."""
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics") as response:
        text = response.read().decode()
    pattern = r'^nv_inference_(\w+)_duration_us\{model="(\w+)".*\} (\d+)$'
    return {
        (model, what): int(microseconds) / 1e6
        for what, model, microseconds in re.findall(pattern, text, re.MULTILINE)
    }


def stages(sam: HQSam, server: TritonServer, repository: Path) -> Iterator[Row]:
    """Break down the time of an encode and of a click."""
    file = jpeg(*TWELVE_MEGAPIXELS, seed=next(_SERIAL))
    embedding = Embedding(
        np.zeros((1, 256, 64, 64), np.float32), np.zeros((1, 32, 256, 256), np.float32), (1, 1)
    )
    limits = Limits(max_bytes=1 << 30, max_pixels=1 << 30)
    apart = {
        name: statistics.median(values)
        for name, values in report.in_turns(
            {
                "read": lambda: preprocess(file, limits),
                "hash": lambda: prepare(file),
                "store": lambda: dump(embedding, {}, False),
            },
            rounds=10,
        ).items()
    }

    def spent(run: Callable[[], object], rounds: int) -> tuple[float, dict[tuple[str, str], float]]:
        before = counted_s(server)
        total = statistics.mean(report.in_turns({"run": run}, rounds, warm_up=0)["run"])
        after = counted_s(server)
        return total, {key: (after[key] - before[key]) / rounds for key in after}

    total, spans = spent(lambda: sam.open(jpeg_variant(file, next(_SERIAL))), 5)
    compute = {name: spans[name, "compute_infer"] for name in ("encoder", "features")}
    shares = {
        "decode, resize, normalise": apart["read"],
        "`encoder`": compute["encoder"],
        "`features`": compute["features"],
        "copies between them": spans["encode", "request"] - sum(compute.values()),
        "client: header and digest": apart["hash"],
        "store: its file": apart["store"],
    }
    shares["transport, waiting, the rest"] = total - sum(shares.values())
    yield shared("an encode of 12 megapixels", total, shares)
    yield stages_of_a_click(sam, repository)


def stages_of_a_click(sam: HQSam, repository: Path) -> Row:
    """Break down the time of a click."""
    image = sam.open(new_image())
    logits = image.segment(points=[CLICK]).low_res_logits
    # `segment` decodes in threads of its own, which Triton's counters do not show.
    seconds = report.in_turns(
        {
            "click": lambda: segment(image),
            "bare": contestants.bare(repository, contract.PROMPT_DECODER, report.precision()),
            "mask": lambda: Mask(logits, 0.0, image.size).array,
        },
        rounds=40,
    )
    total, decoding, mask = (statistics.median(values) for values in seconds.values())
    shares = {"`prompt_decoder`, as alone": decoding, "client: the mask": mask}
    shares["transport, checks, the rest"] = total - sum(shares.values())
    return shared("a click", total, shares)


def shared(what: str, total: float, shares: dict[str, float]) -> Row:
    """Return a row with the shares of a time."""
    parts = "; ".join(
        f"{name} {1e3 * seconds:.1f} ms ({100 * seconds / total:.0f} %)"
        for name, seconds in shares.items()
    )
    return row(f"breakdown of {what}", f"{1e3 * total:.0f} ms", parts)


def under_load(sam: HQSam, server: TritonServer) -> Iterator[Row]:
    """Time clicks, on an idle server and while another client embeds without a pause."""
    files = [new_image() for _ in range(IMAGES)]
    image = sam.open(files[0])

    def figures() -> tuple[dict[str, float], dict[int, float], float]:
        seconds = report.in_turns({"click": lambda: segment(image)}, rounds=60, warm_up=5)
        rates = {clients: clicks_a_second(server, files, clients) for clients in (1, 4, 16)}
        return report.summary(seconds["click"]), rates, prompts_a_second(image, 16)[0]

    idle, idle_rates, idle_prompts = figures()
    with ExitStack() as stack:
        encoded = stack.enter_context(embedding_without_pause(server))
        busy, busy_rates, busy_prompts = figures()
    against = "while another client embeds without a pause, against an idle server"
    yield row(
        f"a click {against}",
        f"{busy['median_ms'] / idle['median_ms']:.1f} times the median",
        f"p50 {busy['median_ms']:.0f} ms, p95 {busy['p95_ms']:.0f} ms, p99 {busy['p99_ms']:.0f} ms "
        f"against p50 {idle['median_ms']:.0f} ms, p95 {idle['p95_ms']:.0f} ms",
    )
    for clients, rate in busy_rates.items():
        yield row(
            f"clicks a second of {clients} client{'s' if clients > 1 else ''} {against}",
            f"{rate / idle_rates[clients]:.2f} times as many",
            f"{rate:.1f} against {idle_rates[clients]:.1f}",
        )
    yield row(
        f"prompts a second, 16 in a request, {against}",
        f"{busy_prompts / idle_prompts:.2f} times as many",
        f"{busy_prompts:.1f} against {idle_prompts:.1f}",
    )
    slow = report.summary(encoded)
    yield row(
        "encodes of that other client, 1 megapixel each",
        f"p50 {slow['median_ms'] / 1e3:.2f} s, p95 {slow['p95_ms'] / 1e3:.2f} s",
        f"{slow['runs']} of them",
    )


@contextmanager
def embedding_without_pause(server: TritonServer) -> Iterator[list[float]]:
    """Embed new images one after the other; yields the seconds of each."""
    stop = threading.Event()
    seconds: list[float] = []

    def embed() -> None:
        with connect(server) as sam:
            while not stop.is_set():
                file = new_image()
                start = time.perf_counter()
                sam.open(file)
                seconds.append(time.perf_counter() - start)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(embed)
        try:
            yield seconds
        finally:
            stop.set()
        future.result()


def memory(sam: HQSam, server: TritonServer, store: Path) -> Iterator[Row]:
    """Measure resident memory, counting shared pages once, and the store."""
    image = sam.open(new_image())
    segment(image)
    by_name = resident_bytes(server)
    total = sum(by_name.values())
    largest = sorted(by_name.items(), key=lambda item: -item[1])
    yield row(
        "resident memory of the server",
        f"{total / 1e9:.2f} GB",
        ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in largest if size > 1e7),
    )
    with Peak(lambda: memory_bytes(server.pid)) as peak:
        many(image)
    yield row(
        "resident memory at 256 prompts in a request",
        f"{peak.grown / 1e9:.2f} GB more",
        "sampled during the request",
    )
    entries = [path.stat().st_size for path in store.iterdir() if path.stat().st_size]
    yield row(
        "the store, for each image",
        f"{statistics.mean(entries) / 1e6:.1f} MB",
        f"{len(entries)} images; half of it with `HQSAM_STORE_PRECISION=fp16`",
    )


def many(image: RemoteImage) -> object:
    """Ask for 256 masks at once."""
    return image.segment(boxes=[(i, 20, 300 + i, 500) for i in range(256)])


def resident_bytes(server: TritonServer) -> dict[str, float]:
    """Return the memory of each model's processes, and of Triton itself."""
    sizes: dict[str, float] = {}
    root = psutil.Process(server.pid)
    for process in [root, *root.children(recursive=True)]:
        # …/<model>/<version>/model.…
        found = re.search(r"/(\w+)/\d+/model\.\w+", " ".join(process.cmdline()))
        name = f"`{found[1]}`" if found else process.name()
        sizes[name] = sizes.get(name, 0.0) + process.memory_full_info().pss
    return sizes


if __name__ == "__main__":
    main()
