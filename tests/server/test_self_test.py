"""The self-test: a real encode and a real click before a server says that it is ready."""

from __future__ import annotations

import io
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from hqsam_client import contract
from hqsam_client.server_status import read_metrics
from hqsam_server import TritonServer
from hqsam_server.errors import StartError
from hqsam_server.launcher import self_test
from hqsam_testing.api import Api, new_png
from hqsam_testing.waiting import TIMEOUT_S, wait_until
from onnx import TensorProto, helper


def start(repository: Path, store: Path, log: io.StringIO | None = None) -> TritonServer:
    return TritonServer(
        repository,
        environment={"HQSAM_STORE_FOLDER": str(store)},
        self_test=True,
        start_timeout_s=TIMEOUT_S,
        log=log,
    )


def test_it_encodes_and_clicks_and_leaves_nothing_behind(
    whole_repository: Path, tmp_path: Path
) -> None:
    store, log = tmp_path / "store", io.StringIO()
    with start(whole_repository, store, log) as server, Api(server) as api:
        assert "the self-test passed in" in log.getvalue()
        assert api.metric("encodes_total") == api.metric("prompts_total") == 1
        assert list(store.glob("*.safetensors")) == []
        # No call has come from anybody.
        for model in ("embed", "segment", "unknown"):
            assert api.metric("calls_total", model=model) == 0
        image_id, _, already_stored = api.embed(new_png())
        assert not already_stored
        api.segment(image_id)
        assert len(list(store.glob("*.safetensors"))) == 1


def broken(repository: Path, folder: Path, model: contract.ModelSpec, value: float) -> Path:
    """Copy a repository, in which a model adds a value to its first output."""
    copy = Path(shutil.copytree(repository, folder, symlinks=True))
    path = copy / model.name / "1" / "model.onnx"
    graph = onnx.load(path)
    output = model.outputs[0].name
    for node in graph.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    graph.graph.initializer.append(helper.make_tensor("value", TensorProto.FLOAT, [], [value]))
    graph.graph.node.append(helper.make_node("Add", ["before", "value"], [output]))
    onnx.save(graph, path)
    return copy


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (contract.ENCODER, "failed in encoder: image_embeddings has NaN"),
        (contract.PROMPT_DECODER, "failed in segment: low_res_masks "),
    ],
    ids=["encoder", "prompt_decoder"],
)
def test_numbers_that_are_none_fail_it_and_the_part_is_named(
    whole_repository: Path, tmp_path: Path, model: contract.ModelSpec, said: str
) -> None:
    store = tmp_path / "store"
    server = start(broken(whole_repository, tmp_path / "models", model, float("nan")), store)
    with pytest.raises(StartError, match=said):
        server.start()
    assert not server.is_running()
    assert list(store.glob("*.safetensors")) == []


EMBEDDED = (200, json.dumps({"outputs": [{"data": [8, 8]}]}))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(500, "in ensemble 'encode', out of memory")], "embed: in ensemble 'encode', out of"),
        ([(0, "timed out")], r"embed: no answer \(timed out\)"),
        ([(200, json.dumps({"outputs": [{"data": [1, 8]}]}))], r"embed: the size .* is \[1, 8\]"),
        ([EMBEDDED, (503, "CUDA failure 803")], "segment: CUDA failure 803"),
        ([EMBEDDED, (200, "{")], "segment: low_res_masks cannot be read"),
        ([EMBEDDED, (200, '{"outputs": [{"data": [Infinity]}]}')], "segment: .* infinite"),
    ],
)
def test_a_failure_says_which_part_failed(
    tmp_path: Path, answers: Sequence[tuple[int, str]], said: str
) -> None:
    rest = list(answers)

    def call(model: str, inputs: Any, timeout_s: float, outputs: Any) -> tuple[int, str]:
        return rest.pop(0)

    with pytest.raises(StartError, match=f"the self-test failed in {said}.*--self-test"):
        self_test.run(call, tmp_path, 1.0)


def ready(server: TritonServer) -> int:
    """Return the HTTP status of whether the server is ready, 0 without an answer."""
    try:
        with urllib.request.urlopen(f"http://{server.http_url}/v2/health/ready") as answer:
            return int(answer.status)
    except urllib.error.URLError as error:
        return int(getattr(error, "code", 0))


def test_nobody_is_let_in_before_it_has_passed(
    whole_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(whole_repository, tmp_path / "store")
    looked: list[bool] = []

    def look(*arguments: Any) -> None:
        wait_until(lambda: ready(server) == 503, "the front to say that it is not ready")
        looked.append(True)
        host, _, port = server.metrics_url.partition(":")
        assert read_metrics(host, int(port), TIMEOUT_S)["encodes"] == 0

    monkeypatch.setattr(self_test, "run", look)
    with server:
        assert ready(server) == 200
    assert looked
