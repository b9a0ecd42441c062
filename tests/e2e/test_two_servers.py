"""Two servers behind one client: pictures stay where they are, and move when a server dies."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hqsam_client import HQSam, Mask, Picture, contract
from hqsam_client._status import read_metrics
from hqsam_server import TritonServer, Tuning
from onnx import TensorProto, helper

from tests.models import pictures

MODEL_REPOSITORY = Path(__file__).parents[2] / "model_repository"
ONNX_MODELS = (contract.ENCODER, contract.DECODER, contract.FEATURES, contract.PROMPT_DECODER)
PATIENCE_S = 120.0
PICTURES = 200
THREADS = 8
CLICK = (20, 30)


def write_cheap(spec: contract.ModelSpec, path: Path) -> None:
    """Write a model that fills its outputs with the sum of its inputs' means."""
    means = [f"mean_{tensor.name}" for tensor in spec.inputs]
    nodes = [
        helper.make_node("ReduceMean", [tensor.name], [mean], keepdims=0)
        for tensor, mean in zip(spec.inputs, means, strict=True)
    ]
    nodes.append(helper.make_node("Sum", means, ["sum"]))
    # Where an output has an entry for each prompt, so has the last input.
    nodes.append(helper.make_node("Shape", [spec.inputs[-1].name], ["prompts"], start=0, end=1))
    shapes = []
    for tensor in spec.outputs:
        first = [] if tensor.shape[0] == -1 else [tensor.shape[0]]
        rest = [*first, *tensor.shape[1:]]
        name = f"shape_{tensor.name}"
        shapes.append(
            helper.make_tensor(f"fixed_{tensor.name}", TensorProto.INT64, [len(rest)], rest)
        )
        parts = [f"fixed_{tensor.name}"] if first else ["prompts", f"fixed_{tensor.name}"]
        nodes.append(helper.make_node("Concat", parts, [name], axis=0))
        nodes.append(helper.make_node("Expand", ["sum", name], [tensor.name]))
    inputs, outputs = (
        [
            helper.make_tensor_value_info(
                tensor.name,
                TensorProto.FLOAT,
                [None if side == -1 else side for side in tensor.shape],
            )
            for tensor in tensors
        ]
        for tensors in (spec.inputs, spec.outputs)
    )
    graph = helper.make_graph(nodes, spec.name, inputs, outputs, shapes)
    opset = [helper.make_opsetid("", 17)]
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.fixture(scope="module")
def cheap_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole repository, with arithmetic instead of HQ-SAM: hundreds of encodes take a while."""
    folder = tmp_path_factory.mktemp("cheap") / "model_repository"
    shutil.copytree(MODEL_REPOSITORY, folder)
    for spec in ONNX_MODELS:
        write_cheap(spec, folder / spec.name / "1" / "model.onnx")
    return folder


@pytest.fixture
def servers(cheap_repository: Path) -> Iterator[list[TritonServer]]:
    """Two servers, each with a store of its own that holds all pictures."""
    # Not `tmp_path`, which pytest keeps: the stores grow to 2 GB.
    with tempfile.TemporaryDirectory(prefix="hqsam-test-") as folder:
        running = [
            TritonServer(
                cheap_repository,
                tuning=Tuning(precision="fp32"),
                environment={
                    "HQSAM_STORE_FOLDER": f"{folder}/{name}",
                    "HQSAM_STORE_PRECISION": "fp16",
                    "HQSAM_STORE_BYTES": str(2 * 2**30),
                },
            )
            for name in ("first", "second")
        ]
        with running[0], running[1]:
            yield running


def encodes(server: TritonServer) -> int:
    """Return how many pictures a server has encoded."""
    host, _, port = server.metrics_url.rpartition(":")
    return int(read_metrics(host, int(port), PATIENCE_S).get("encodes", 0))


def test_200_pictures_stay_where_they_were_put_and_move_when_a_server_is_killed(
    servers: list[TritonServer],
) -> None:
    photos = [pictures.png(60 + index, 50) for index in range(PICTURES)]
    url = ",".join(server.grpc_url for server in servers)
    with HQSam(url, timeout_s=PATIENCE_S) as sam:
        assert [result.error for result in sam.embed(photos)] == [None] * PICTURES
    first, second = map(encodes, servers)
    assert first + second == PICTURES
    assert min(first, second) > PICTURES // 4

    # A client that has never seen them finds all of them again.
    with HQSam(url, timeout_s=PATIENCE_S) as sam:
        assert all(result.already_stored for result in sam.embed(photos))
        opened = [sam.open(photo) for photo in photos]
        before, after = click_while_one_dies(opened, servers[0])
    assert all(
        np.allclose(a.low_res_logits, b.low_res_logits, rtol=1e-3)
        for a, b in zip(before, after, strict=True)
    )
    # What the dead server had was encoded once more, and nothing else.
    assert encodes(servers[1]) == second + first


def click_while_one_dies(
    opened: list[Picture], server: TritonServer
) -> tuple[list[Mask], list[Mask]]:
    """Click on every picture twice, from 8 threads, and kill the server amid the first round."""
    amid = threading.Semaphore(0)

    def click(picture: Picture) -> Mask:
        mask = picture.segment(points=[CLICK])
        amid.release()
        return mask

    with ThreadPoolExecutor(THREADS) as pool:
        rounds = pool.map(click, [*opened, *opened])
        for _ in range(len(opened) // 2):
            assert amid.acquire(timeout=PATIENCE_S)
        os.kill(server.pid, signal.SIGKILL)
        masks = list(rounds)
    return masks[: len(opened)], masks[len(opened) :]
