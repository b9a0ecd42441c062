"""Interactive serving at full size: encode, click, batches, fairness and memory.

Everything in one run on one machine, the contestants in turns; ratios are what counts.
Weights are rebuilt (full size, random) unless `HQSAM_CHECKPOINT` names a checkpoint.
`--short` leaves out the endurance run, which takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
import tritonclient.grpc
from hqsam_client import HQSam, Mask, contract
from hqsam_client._client import Picture
from hqsam_export import checkpoint, exporter
from hqsam_export.modeling import HQSamModel
from hqsam_server import TritonServer, Tuning
from hqsam_server._onnx_backend import ModelFile, Tensor, open_model
from hqsam_server._preprocess import Limits, preprocess
from numpy.typing import NDArray
from PIL import Image

from benchmarks import report
from tests import rebuilt
from tests.oracle import images

Row = dict[str, Any]

STORE_ENTRIES = 20
ENTRY_BYTES = 12_700_000
ENCODER_OUTPUTS = contract.ENCODER.outputs
CLICK = (400, 500)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--repository", type=Path, help="an exported repository to use as it is")
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
        environment = {
            "HQSAM_STORE_FOLDER": store,
            "HQSAM_STORE_BYTES": str(STORE_ENTRIES * ENTRY_BYTES),
        }
        tuning = Tuning(cache_dir=Path(folder) / "cache")
        with (
            TritonServer(repository, tuning=tuning, environment=environment) as server,
            HQSam(server.grpc_url, timeout_s=600.0, embed_timeout_s=600.0) as sam,
        ):
            rows = [*encode(sam, model, repository)]
            with bare_decoder(repository) as run_bare:
                rows += clicks(sam, server.grpc_url, run_bare)
            rows += batches(sam)
            rows += fairness(sam)
            rows += memory(sam, server, short=args.short)
    report.write("serving", "Interactive serving", "make bench-serving", rows)


def jpeg(width: int, height: int, seed: int) -> bytes:
    """Return a picture that no other seed gives, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    picture = images.picture(width, height).astype(np.int16)
    picture += rng.integers(-12, 13, picture.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def encode(sam: HQSam, model: HQSamModel, repository: Path) -> Iterator[Row]:
    """Time 12 megapixels from file to embedding, three ways."""
    import onnxruntime

    file = jpeg(4000, 3000, seed=0)
    session = onnxruntime.InferenceSession(
        str(repository / "encoder" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    limits = Limits(max_bytes=1 << 30, max_pixels=1 << 30)
    seeds = iter(range(1, 100))

    def eager(encoder: Callable[[torch.Tensor], object]) -> None:
        with torch.inference_mode():
            encoder(torch.from_numpy(preprocess(file, limits)[0]))

    official = official_model()
    seconds = report.in_turns(
        {
            "embed": lambda: sam.open(jpeg_variant(file, next(seeds))),
            "ONNX Runtime": lambda: session.run(None, {"image": preprocess(file, limits)[0]}),
            "official": lambda: eager(official.get_image_embeddings),
            "fused": lambda: eager(model.image_encoder),
        },
        rounds=3,
    )
    embed = statistics.median(seconds["embed"])
    for name, what in (
        ("official", "PyTorch eager, same file"),
        ("fused", "PyTorch eager with fused attention"),
        ("ONNX Runtime", "the same ONNX on the default CPU provider"),
    ):
        other = statistics.median(seconds[name])
        yield {
            "what": f"`embed` of a 12-megapixel JPEG against {what}",
            "figure": f"{other / embed:.1f} times faster",
            "detail": f"{embed:.2f} s against {other:.2f} s",
        }


def official_model() -> transformers.SamHQModel:
    """Return ViT-B in PyTorch as the authors wrote it: attention step by step, not fused."""
    config = transformers.SamHQConfig(vision_config=transformers.SamHQVisionConfig())
    model: transformers.SamHQModel = transformers.AutoModel.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation="eager"
    )
    model.train(False)
    return model


def jpeg_variant(file: bytes, seed: int) -> bytes:
    """Return the same picture under another digest: bytes after a JPEG's end are ignored."""
    return file + seed.to_bytes(4, "big")


@contextmanager
def bare_decoder(repository: Path) -> Iterator[Any]:
    """Give a function that runs `prompt_decoder` in this process, as the server would."""

    def tensors(specs: tuple[contract.TensorSpec, ...]) -> dict[str, Tensor]:
        return {spec.name: Tensor(f"TYPE_{spec.dtype}", spec.shape) for spec in specs}

    rng = np.random.default_rng(0)
    inputs = {
        spec.name: rng.standard_normal([1 if d == -1 else d for d in spec.shape], np.float32)
        for spec in contract.PROMPT_DECODER.inputs
    }
    inputs["point_coords"] = np.array([[CLICK, (0, 0)]], np.float32)
    inputs["point_labels"] = np.array([[1, -1]], np.float32)
    inputs["has_mask_input"] = np.zeros(1, np.float32)
    model = open_model(
        ModelFile(
            repository / "prompt_decoder" / "1" / "model.onnx",
            tensors(contract.PROMPT_DECODER.inputs),
            tensors(contract.PROMPT_DECODER.outputs),
            intra_op_threads=len(os.sched_getaffinity(0)),
            inter_op_threads=0,
            openvino={},
            usual_shapes=({name: array.shape for name, array in inputs.items()},),
        )
    )
    yield lambda: model.run(inputs, ["low_res_masks", "iou_predictions"])


def clicks(sam: HQSam, url: str, run_bare: Any) -> Iterator[Row]:
    """Time one click by `image_id`, with embeddings sent along, and without a server."""
    picture = sam.open(jpeg(1200, 900, seed=200))
    embeddings = random_embeddings()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with tritonclient.grpc.InferenceServerClient(url, channel_args=options) as client:
        seconds = report.in_turns(
            {
                "click": lambda: click(picture),
                "sent": lambda: click_with_embeddings(client, embeddings),
                "bare": run_bare,
            },
            rounds=30,
            warm_up=5,
        )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    yield {
        "what": "a click by `image_id` against one that sends embeddings to `decoder`",
        "figure": f"{medians['sent'] / medians['click']:.1f} times faster",
        "detail": f"{1e3 * medians['click']:.1f} ms against {1e3 * medians['sent']:.1f} ms",
    }
    yield {
        "what": "a click by `image_id` against a bare run of `prompt_decoder` in-process",
        "figure": f"{1e3 * (medians['click'] - medians['bare']):.1f} ms more",
        "detail": f"{1e3 * medians['click']:.1f} ms against {1e3 * medians['bare']:.1f} ms",
    }


def click(picture: Picture) -> NDArray[np.bool_]:
    """Segment one object and bring its mask to the picture's size."""
    return picture.segment(points=[CLICK]).array


def random_embeddings() -> dict[str, NDArray[np.float32]]:
    """Return what a client gets from `encoder` and keeps: 54.5 MB."""
    rng = np.random.default_rng(0)
    return {spec.name: rng.standard_normal(spec.shape, np.float32) for spec in ENCODER_OUTPUTS}


def click_with_embeddings(
    client: tritonclient.grpc.InferenceServerClient, embeddings: dict[str, NDArray[np.float32]]
) -> NDArray[np.bool_]:
    """Segment one object by sending the embeddings, and resize its mask."""
    arrays = {
        **embeddings,
        "point_coords": np.array([[CLICK, (0, 0)]], np.float32),
        "point_labels": np.array([[1, -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    inputs = [
        tritonclient.grpc.InferInput(
            spec.name, arrays[spec.name].shape, spec.dtype
        ).set_data_from_numpy(arrays[spec.name])
        for spec in contract.DECODER.inputs
    ]
    wanted = [tritonclient.grpc.InferRequestedOutput("low_res_masks")]
    logits = client.infer("decoder", inputs, outputs=wanted).as_numpy("low_res_masks")
    return Mask(logits[0, 0], 0.0, (900, 1200)).array


def batches(sam: HQSam) -> Iterator[Row]:
    """Time 16 prompts in one request and in 16."""
    picture = sam.open(jpeg(1200, 900, seed=201))
    boxes = [(10 * i, 20, 300 + 10 * i, 500) for i in range(16)]
    seconds = report.in_turns(
        {
            "one": lambda: picture.segment(boxes=boxes),
            "sixteen": lambda: [picture.segment(box=box) for box in boxes],
        },
        rounds=5,
    )
    one, sixteen = (statistics.median(seconds[name]) for name in ("one", "sixteen"))
    yield {
        "what": "16 prompts in one request against 16 requests",
        "figure": f"{sixteen / one:.2f} times as many prompts a second",
        "detail": f"{16 / one:.1f} against {16 / sixteen:.1f} prompts a second",
    }


def fairness(sam: HQSam) -> Iterator[Row]:
    """Time clicks while another client embeds without pause."""
    file = jpeg(1200, 900, seed=202)
    picture = sam.open(file)
    idle = report.in_turns({"click": lambda: click(picture)}, rounds=30, warm_up=5)["click"]
    stop = threading.Event()
    encoded = 0

    def embed_without_pause() -> None:
        nonlocal encoded
        while not stop.is_set():
            sam.open(jpeg_variant(file, 1000 + encoded))
            encoded += 1

    thread = threading.Thread(target=embed_without_pause)
    thread.start()
    busy = report.in_turns({"click": lambda: click(picture)}, rounds=60, warm_up=5)["click"]
    stop.set()
    thread.join()
    ratio = statistics.median(busy) / statistics.median(idle)
    yield {
        "what": "a click while another client embeds without pause, against an idle server",
        "figure": f"{ratio:.1f} times the median",
        "detail": f"{1e3 * statistics.median(busy):.0f} ms against "
        f"{1e3 * statistics.median(idle):.0f} ms; p95 {report.summary(busy)['p95_ms']:.0f} ms; "
        f"{encoded} pictures encoded meanwhile",
    }


def memory(sam: HQSam, server: TritonServer, *, short: bool) -> Iterator[Row]:
    """Measure resident memory, and whether it stays."""
    file = jpeg(1200, 900, seed=203)
    picture = sam.open(file)
    before = resident_bytes(server)
    yield {"what": "resident memory", "figure": f"{before / 1e9:.2f} GB", "detail": "all processes"}
    yield {
        "what": "resident memory at 256 prompts in a request",
        "figure": f"{peak_of(lambda: many(picture), server) / 1e9 - before / 1e9:.2f} GB more",
        "detail": "sampled during the request",
    }
    if short:
        return
    start = resident_bytes(server)
    for index in range(200):
        opened = sam.open(jpeg_variant(file, 5000 + index))
        for _ in range(10):
            opened.segment(points=[CLICK])
    end = resident_bytes(server)
    yield {
        "what": f"resident memory after 2,000 clicks on 200 pictures, {STORE_ENTRIES} stored",
        "figure": f"{100 * (end / start - 1):+.1f} %",
        "detail": f"{start / 1e9:.2f} GB before, {end / 1e9:.2f} GB after",
    }


def many(picture: Picture) -> object:
    """Ask for 256 masks at once."""
    return picture.segment(boxes=[(i, 20, 300 + i, 500) for i in range(256)])


def peak_of(run: Any, server: TritonServer) -> float:
    """Run something and return the largest resident memory seen meanwhile, in bytes."""
    thread = threading.Thread(target=run)
    thread.start()
    peak = 0.0
    while thread.is_alive():
        peak = max(peak, resident_bytes(server))
        thread.join(0.2)
    return peak


def resident_bytes(server: TritonServer) -> float:
    """Return the server's memory, what its processes share counted once."""
    root = psutil.Process(server.pid)
    return float(sum(p.memory_full_info().pss for p in [root, *root.children(recursive=True)]))


if __name__ == "__main__":
    main()
