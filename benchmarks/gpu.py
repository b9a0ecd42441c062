"""Encoder and clicks on one GPU: speed, precision and memory, through ONNX Runtime.

It measures files that `benchmarks.gpu_files` wrote, and needs no exporter and no Triton: the
encoder in a session of its own, and clicks through the decoder and the scheduler of `segment`. What
cannot be run becomes a row that says why.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from hqsam_client import contract
from hqsam_server.models.prompt_checks import PromptLimits, Prompts
from hqsam_server.prompt_decoding.decoder import Job, PlacedImage
from hqsam_server.prompt_decoding.device import Device, DeviceDecoder
from hqsam_server.prompt_decoding.scheduler import Request, Scheduler
from hqsam_server.runtime.config import Arrays, ModelFile
from hqsam_server.runtime.onnx_runtime import CPU, gpu_providers, open_session
from hqsam_server.store.entry import Embedding
from numpy.typing import NDArray

from benchmarks import report

IMAGES = "images.npz"
"""Preprocessed images: float32 [1, 3, 1024, 1024] each."""

HALVED = "{}-fp16"
"""Folder of a model in fp16."""

BF16 = "{}-bf16"
"""Folder of a model in bf16, which only GPUs run."""

_MASK = ["low_res_masks"]
_CLICKS = ((300.0, 300.0), (700.0, 500.0), (500.0, 800.0))
"""(x, y) in the input frame."""


class Precision(NamedTuple):
    """A way to compute.

    Attributes:
        name: in the table.
        folder: of the model, from its name.
        accelerators: parameters by accelerator, as in a config.
    """

    name: str
    folder: str
    accelerators: Mapping[str, Mapping[str, str]]


_TF32_OFF = {"use_tf32": "0"}
_EXPORTED = "{}"
FP32 = Precision("fp32", _EXPORTED, {"cuda": _TF32_OFF})
ON_CUDA = (
    FP32,
    Precision("fp16", HALVED, {"cuda": _TF32_OFF}),
    Precision("fp32 with TF32 products", _EXPORTED, {}),
    Precision("bf16", BF16, {"cuda": _TF32_OFF}),
)
_ON_CPU = ("fp32", "fp16")
_TENSORRT = {"trt_layer_norm_fp32_fallback": "true"}
ON_TENSORRT = (
    Precision(
        "fp16 on TensorRT", _EXPORTED, {"tensorrt": {**_TENSORRT, "trt_fp16_enable": "true"}}
    ),
    Precision(
        "bf16 on TensorRT", _EXPORTED, {"tensorrt": {**_TENSORRT, "trt_bf16_enable": "true"}}
    ),
)


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        device: where.
        rounds: runs of the encoder.
        together: prompts in a batch.
        batches: sizes of batches to time by themselves, up to `together`.
        users: numbers of users at once, each on an image of their own.
        seconds: how long users click.
        deadline: `time.monotonic()` after which nothing more begins.
    """

    device: Device
    rounds: int
    together: int
    batches: tuple[int, ...]
    users: tuple[int, ...]
    seconds: float
    deadline: float


class Bench:
    """Measures, and keeps the rows of the table."""

    def __init__(
        self, folder: Path, plan: Plan, save: Callable[[list[dict[str, Any]]], object]
    ) -> None:
        """Compute the masks in fp32 that all others are compared with.

        Args:
            folder: what `benchmarks.gpu_files` wrote.
            plan: how much to measure.
            save: called with all rows after each one, so that a run that is stopped loses none.

        Raises:
            StartError: the device cannot be used.
        """
        self.rows: list[dict[str, Any]] = []
        self._save = save
        self._folder = folder
        self._plan = plan
        self._images: list[NDArray[np.float32]] = list(np.load(folder / IMAGES).values())
        self._embeddings = self._embedded(self._session(contract.ENCODER, FP32))
        self._masks = self._decoded(self._decoder(FP32, together=1), self._embeddings)

    def run(self) -> None:
        """Measure everything."""
        on_cpu = self._plan.device.kind == "cpu"
        for precision in ON_CUDA:
            if on_cpu and precision.name not in _ON_CPU:
                self._not_run(precision.name, "it needs a GPU")
                continue
            self._try(f"encoder, {precision.name}", self._measure_encoder, precision)
            self._try(f"click, {precision.name}", self._measure_clicks, precision)
        for precision in ON_TENSORRT:
            what = f"encoder, {precision.name}"
            if on_cpu:
                self._not_run(what, "TensorRT needs a GPU")
            else:
                self._try(what, self._measure_encoder, precision)
        self._not_run("encoder, batches of 8", "the contract's encoder takes one image")
        self._not_run("click on TensorRT", "it would build an engine for each shape of prompts")

    def _try(self, what: str, measure: Callable[[str, Precision], None], how: Precision) -> None:
        if time.monotonic() > self._plan.deadline:
            self._not_run(what, "no time was left")
            return
        try:
            measure(what, how)
        except Exception as error:  # ONNX Runtime's have no base of their own
            self._not_run(what, f"{type(error).__name__}: {' '.join(str(error).split())[:600]}")

    def _row(self, what: str, figure: str, detail: str) -> None:
        print(f"{what}: {figure}, {detail}", flush=True)
        self.rows.append({"what": what, "figure": figure, "detail": detail})
        self._save(self.rows)

    def _not_run(self, what: str, why: str) -> None:
        self._row(what, "not run", why)

    def _measure_encoder(self, what: str, precision: Precision) -> None:
        session = self._session(contract.ENCODER, precision)
        masks = self._decoded(self._decoder(FP32, together=1), self._embedded(session))
        binding = session.io_binding()
        for tensor in contract.ENCODER.outputs:
            binding.bind_output(tensor.name, *self._plan.device)
        seconds = []
        for image, _ in zip(itertools.cycle(self._images), range(self._plan.rounds), strict=False):
            start = time.perf_counter()
            binding.bind_cpu_input("image", image)
            session.run_with_iobinding(binding)
            seconds.append(time.perf_counter() - start)
        times = report.summary(seconds)
        alone = report.summary(
            _timed(lambda: session.run_with_iobinding(binding), self._plan.rounds)
        )
        self._row(
            what,
            f"{times['median_ms']:.1f} ms",
            f"p99 {times['p99_ms']:.1f} ms, {1e3 / times['median_ms']:.1f} images a second one by "
            f"one; {alone['median_ms']:.2f} ms (p99 {alone['p99_ms']:.2f}) if the image is on the "
            f"device; {self._agreement(masks)}; {_memory(self._plan.device)}",
        )

    def _measure_clicks(self, what: str, precision: Precision) -> None:
        decoder = self._decoder(precision, together=self._plan.together)
        agreement = self._agreement(self._decoded(decoder, self._embeddings))
        images = [
            decoder.place(_another(self._embeddings[number % len(self._embeddings)], number))
            for number in range(max(self._plan.users))
        ]
        size = images[0].nbytes / 1e6
        memory = _memory(self._plan.device)
        self._row(what, f"{size:.1f} MB an image", f"on the device; {agreement}; {memory}")
        for count in self._plan.batches:
            self._measure_batch(what, decoder, images[:count])
        for users in self._plan.users:
            start = time.perf_counter()
            seconds = _clicked(decoder, images[:users], self._plan.seconds)
            rate = len(seconds) / (time.perf_counter() - start)
            times = report.summary(seconds)
            self._row(
                f"{what}, users at once, each on an image: {users}",
                f"{rate:.{0 if rate > 100 else 1}f} clicks a second",
                f"p50 {times['median_ms']:.1f} ms, p99 {times['p99_ms']:.1f} ms",
            )

    def _measure_batch(
        self, what: str, decoder: DeviceDecoder, images: Sequence[PlacedImage]
    ) -> None:
        """Time a batch of a click on each image, without the scheduler."""
        prompts = itertools.cycle(map(_prompt, _CLICKS))
        jobs = [Job(image, *next(prompts).one(0)) for image in images]
        rounds = self._plan.rounds
        times = report.summary(_timed(lambda: decoder.run(jobs, _MASK, narrow=False), rounds))
        self._row(
            f"{what}, batch, each on an image: {len(jobs)}",
            f"{times['median_ms']:.2f} ms",
            f"p99 {times['p99_ms']:.2f} ms, masks copied back",
        )

    def _file(self, spec: contract.ModelSpec, precision: Precision) -> ModelFile:
        file = ModelFile.read(self._folder / precision.folder.format(spec.name))
        return replace(file, openvino=None, gpu_accelerators=precision.accelerators)

    def _session(
        self, spec: contract.ModelSpec, precision: Precision
    ) -> onnxruntime.InferenceSession:
        file, device = self._file(spec, precision), self._plan.device
        providers = CPU if device.kind == "cpu" else gpu_providers(file, device.number)
        return open_session(file, 0, providers)

    def _decoder(self, precision: Precision, *, together: int) -> DeviceDecoder:
        file = self._file(contract.PROMPT_DECODER, precision)
        return DeviceDecoder(replace(file, max_open_dims=(together, 256)), self._plan.device)

    def _embedded(self, encoder: onnxruntime.InferenceSession) -> list[Embedding]:
        features = self._session(contract.FEATURES, FP32)
        embeddings = []
        for image in self._images:
            names = [tensor.name for tensor in contract.ENCODER.outputs]
            outputs = dict(zip(names, encoder.run(names, {"image": image}), strict=True))
            [hq_features] = features.run(None, outputs)
            embeddings.append(Embedding(outputs["image_embeddings"], hq_features, (1024, 1024)))
        return embeddings

    def _decoded(
        self, decoder: DeviceDecoder, embeddings: Sequence[Embedding]
    ) -> NDArray[np.bool_]:
        """Return the mask of each click on each image."""
        masks = []
        for image in map(decoder.place, embeddings):
            for click in _CLICKS:
                [outputs] = decoder.run([Job(image, *_prompt(click).one(0))], _MASK, narrow=False)
                masks.append(outputs[_MASK[0]] > 0)
        return np.concatenate(masks)

    def _agreement(self, masks: NDArray[np.bool_]) -> str:
        shared = (masks & self._masks).sum(axis=(1, 2, 3))
        union = (masks | self._masks).sum(axis=(1, 2, 3))
        # Two empty masks are the same mask.
        iou = np.where(union == 0, 1.0, shared / np.maximum(union, 1))
        return f"mask IoU with fp32 {iou.mean():.4f}, at least {iou.min():.4f}"


def _prompt(click: tuple[float, float]) -> Prompts:
    inputs: Arrays = {
        "point_coords": np.array([[click]], np.float32),
        "point_labels": np.array([[contract.LABEL_FOREGROUND]], np.float32),
    }
    return Prompts.checked(inputs, PromptLimits())


def _another(embedding: Embedding, number: int) -> Embedding:
    """Return an embedding of its own: an image moved to the side."""
    return Embedding(
        np.roll(embedding.image_embeddings, number, axis=-1),
        np.roll(embedding.hq_features, 4 * number, axis=-1),
        embedding.original_size,
    )


def _clicked(decoder: DeviceDecoder, images: Sequence[PlacedImage], seconds: float) -> list[float]:
    """Let a user for each image click as soon as the last mask is there; return all times."""
    scheduler = Scheduler(decoder, max_waiting=len(images), max_bytes=2**30)
    until = time.perf_counter() + seconds
    times: list[float] = []
    errors: list[Exception] = []

    def click(user: int) -> None:
        answered = threading.Event()
        prompts = itertools.cycle(map(_prompt, _CLICKS))

        def reply(answer: Arrays | Exception) -> None:
            if isinstance(answer, Exception):
                errors.append(answer)
            answered.set()

        while (start := time.perf_counter()) < until and not errors:
            answered.clear()
            request = Request(
                str(user), lambda: images[user], next(prompts), _MASK, reply, lambda: False
            )
            scheduler.submit(request)
            answered.wait()
            times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=click, args=[user]) for user in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scheduler.close()
    if errors:
        raise RuntimeError(f"a click failed: {errors[0]}") from errors[0]
    return times


def _timed(run: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each round, after one that does not count."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def _described(device: Device) -> str:
    if device.kind == "cpu":
        return "the CPU, to try the program"
    return _queried(device, "name,memory.total,driver_version") or f"GPU {device.number}"


def _memory(device: Device) -> str:
    """Return what all processes, this one above all, have of the GPU's memory."""
    used = "" if device.kind == "cpu" else _queried(device, "memory.used")
    return f"{used or 'unknown memory'} of the GPU in use"


def _queried(device: Device, what: str) -> str:
    query = [f"--query-gpu={what}", "--format=csv,noheader"]
    command = ["nvidia-smi", f"--id={device.number}", *query]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, help="the folder that benchmarks.gpu_files wrote")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--number", type=int, default=0, help="of the GPU")
    parser.add_argument("--quick", action="store_true", help="few rounds, to try the program")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the table")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="how long users click in each measurement"
    )
    parser.add_argument(
        "--deadline", type=float, default=480.0, help="seconds after which nothing more begins"
    )
    args = parser.parse_args()
    device = Device(args.device, args.number if args.device == "cuda" else 0)
    # With the defaults, no measurement that begins in time takes more than two minutes.
    deadline = time.monotonic() + args.deadline
    if args.quick:
        plan = Plan(device, 3, 4, (1, 4), (1, 4), min(args.seconds, 2.0), deadline)
    else:
        plan = Plan(device, 50, 32, (1, 8, 32), (1, 8, 64), args.seconds, deadline)
    title = f"Encoder and clicks on {_described(device)}"

    def save(rows: list[dict[str, Any]]) -> str:
        return report.save("gpu", title, "make bench-gpu", rows, args.output)

    try:
        bench = Bench(args.files, plan, save)
    except Exception as error:  # ONNX Runtime's have no base of their own
        sys.exit(f"nothing was measured: {type(error).__name__}: {error}")
    bench.run()
    print(save(bench.rows))


if __name__ == "__main__":
    main()
