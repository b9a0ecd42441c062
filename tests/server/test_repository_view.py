"""The server's view of a repository: what options change in it, and what they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hqsam_client import contract
from hqsam_server import Tuning
from hqsam_server.launcher.repository_view import computed_by, write_repository
from hqsam_server.runtime.openvino import resolved_precision
from tritonclient.grpc import model_config_pb2

ONNX_MODELS = ("decoder", "encoder", "features", "prompt_decoder")


def written(source: Path, folder: Path, tuning: Tuning) -> dict[str, Any]:
    """Return the configs that the server gets, by model."""
    names = write_repository(folder, source, tuning)
    return {
        name: text_format.Parse(
            (folder / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        for name in names
    }


def accelerator(config: Any) -> dict[str, str]:
    (found,) = config.optimization.execution_accelerators.cpu_execution_accelerator
    return {"name": found.name, **found.parameters}


def test_the_encoders_config_names_the_model_that_the_manifest_names(
    whole_repository: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(whole_repository, source)
    manifest: dict[str, object] = {"files": {}, "template_files": {}}
    for number, model in enumerate((None, "Light HQ-SAM")):
        (source / "manifest.json").write_text(json.dumps({**manifest, "model": model}))
        configs = written(source, tmp_path / str(number), Tuning())
        named = {
            name: config.parameters[contract.MODEL_PARAMETER].string_value
            for name, config in configs.items()
            if contract.MODEL_PARAMETER in config.parameters
        }
        assert named == ({} if model is None else {"encoder": model})


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_precision_reaches_all_models_but_the_contracts_decoder(
    whole_repository: Path, tmp_path: Path, precision: str
) -> None:
    configs = written(whole_repository, tmp_path, Tuning(precision=precision))
    found = {name: accelerator(configs[name])["precision"] for name in ONNX_MODELS}
    assert found == dict.fromkeys(ONNX_MODELS, precision) | {"decoder": "fp32"}


def test_by_default_the_processor_sets_the_precision_of_all_models_but_the_decoder(
    whole_repository: Path, tmp_path: Path
) -> None:
    configs = written(whole_repository, tmp_path, Tuning())
    found = {name: accelerator(configs[name])["precision"] for name in ONNX_MODELS}
    assert found == dict.fromkeys(ONNX_MODELS, resolved_precision("auto")) | {"decoder": "fp32"}


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        (Tuning(precision="bf16"), "onnxruntime-openvino-bf16 onnxruntime-openvino-bf16"),
        (Tuning(precision="fp32"), "onnxruntime-openvino-fp32 onnxruntime-openvino-fp32"),
        (Tuning(model_config_name="cuda"), "onnxruntime-KIND_GPU onnxruntime-KIND_GPU"),
        (Tuning(model_config_name="tensorrt"), "onnxruntime-tensorrt-FP16 onnxruntime"),
        (Tuning(model_config_name="none"), "onnxruntime onnxruntime"),
    ],
    ids=["bf16", "fp32", "cuda", "tensorrt", "none"],
)
def test_the_view_tells_what_computes_embeddings(
    whole_repository: Path, tmp_path: Path, tuning: Tuning, expected: str
) -> None:
    written(whole_repository, tmp_path, tuning)
    assert computed_by(tmp_path) == expected


def test_threads_and_cache_reach_the_models(whole_repository: Path, tmp_path: Path) -> None:
    tuning = Tuning(threads=3, cache_dir=tmp_path / "cache")
    configs = written(whole_repository, tmp_path / "view", tuning)
    for name in ONNX_MODELS:
        assert configs[name].parameters["intra_op_thread_count"].string_value == "3"
        assert accelerator(configs[name])["cache_dir"] == str(tmp_path / "cache")


def test_a_model_has_all_processors(
    whole_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    configs = written(whole_repository, tmp_path, Tuning())
    threads = {
        name: configs[name].parameters["intra_op_thread_count"].string_value for name in ONNX_MODELS
    }
    assert threads == dict.fromkeys(ONNX_MODELS, "16")


def test_the_repository_itself_is_not_changed(whole_repository: Path, tmp_path: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in whole_repository.rglob("*.pbtxt")}

    before = content()
    written(whole_repository, tmp_path, Tuning("fp32", 1, cache_dir=tmp_path / "cache"))
    assert content() == before != {}


def test_with_tritons_own_backends_the_configs_are_unchanged(
    whole_repository: Path, tmp_path: Path
) -> None:
    tuning = Tuning(threads=3, model_config_name="cuda", backend_directory=tmp_path)
    configs = written(whole_repository, tmp_path / "view", tuning)
    for name in ONNX_MODELS:
        file = whole_repository / name / "configs" / "cuda.pbtxt"
        assert configs[name] == text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
