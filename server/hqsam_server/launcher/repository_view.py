"""What Triton loads: its backends, and a view of the model repository with tuned configs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from hqsam_client import contract
from hqsam_export import repository as exported
from hqsam_export.errors import ExportError
from tritonclient.grpc import model_config_pb2

from hqsam_server.errors import StartError
from hqsam_server.launcher.distribution import Distribution
from hqsam_server.launcher.options import Tuning


def write_backends(folder: Path, distribution: Distribution) -> None:
    """Write the folder for ``--backend-directory``: Python and ONNX."""
    python = folder / "python"
    python.mkdir(parents=True)
    # Copies: Triton refuses a backend that is a link to another folder.
    for file in (*distribution.python_backend.iterdir(), distribution.stub):
        if file.is_file():
            shutil.copy(file, python)
    source = Path(__file__).parents[1] / "runtime" / "backends" / "onnxruntime" / "model.py"
    (folder / "onnxruntime").mkdir()
    shutil.copy(source, folder / "onnxruntime")


def write_repository(folder: Path, source: Path, tuning: Tuning) -> list[str]:
    """Write the server's view of a model repository: links to its files, and tuned configs.

    Returns:
        the names of the models.

    Raises:
        StartError: the repository cannot be read or holds no models.
    """
    try:
        models = sorted(path.parent for path in source.glob("*/config.pbtxt"))
        unreadable = not os.access(source, os.R_OK | os.X_OK)
    except OSError as error:
        raise StartError(f"cannot read {source}: {error.strerror}") from error
    if not source.is_dir():
        raise StartError(
            f"no model repository at {source}: give the folder that hqsam export wrote, or "
            "serve the small model with --small"
        )
    if unreadable or not models:
        raise StartError(
            f"{source} {'cannot be read' if unreadable else 'contains no model'}: expected a "
            "folder with */config.pbtxt, as hqsam export writes it"
        )
    for model in models:
        _write_model(folder / model.name, model.resolve(), tuning)
    if (source / "manifest.json").exists():
        (folder / "manifest.json").symlink_to((source / "manifest.json").resolve())
    return [model.name for model in models]


def computed_by(repository: Path) -> str:
    """Return the backend and precision that compute embeddings, such as "openvino-bf16".

    Args:
        repository: the server's view, as `write_repository` wrote it.
    """
    names = (contract.ENCODER.name, contract.FEATURES.name)
    files = (repository / name / "config.pbtxt" for name in names)
    return " ".join(_run_by(read_config(file)) for file in files if file.exists())


def member(repository: Path) -> str | None:
    """Name the member of the HQ-SAM family in a model repository, as its manifest does.

    Returns:
        None if there is no manifest, or it is of a model that was not published.
    """
    try:
        name = exported.read_manifest(repository).get("model")
    except ExportError:
        return None
    return None if name is None else str(name)


def read_config(file: Path) -> Any:
    """Return the `ModelConfig` in a file.

    Raises:
        OSError, UnicodeDecodeError, text_format.ParseError: it cannot be read.
    """
    return text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def _run_by(config: Any) -> str:
    accelerators = config.optimization.execution_accelerators
    parts = [config.backend]
    for accelerator in accelerators.cpu_execution_accelerator:
        parts += [accelerator.name, accelerator.parameters.get("precision", "auto")]
    for accelerator in accelerators.gpu_execution_accelerator:
        parts += [accelerator.name, accelerator.parameters.get("precision_mode", "FP32")]
    if not accelerators.ByteSize():
        kinds = {group.Kind.Name(group.kind) for group in config.instance_group}
        parts += sorted(kinds)
    return "-".join(parts)


def _write_model(folder: Path, source: Path, tuning: Tuning) -> None:
    folder.mkdir(parents=True)
    variant = source / "configs" / f"{tuning.model_config_name}.pbtxt"
    config_file = variant if variant.exists() else source / "config.pbtxt"
    try:
        config = read_config(config_file)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise StartError(f"cannot read {config_file}: {error}") from error
    if config.backend == "onnxruntime":
        if not any(source.glob("[0-9]*/model.onnx")):
            raise StartError(
                f"{source} has no model.onnx: run hqsam export --output {source.parent}"
            )
        if tuning.backend_directory is None:
            _tune(config, tuning)
    if config.name == contract.ENCODER.name and (name := member(source.parent)) is not None:
        config.parameters[contract.MODEL_PARAMETER].string_value = name
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    for version in source.glob("[0-9]*"):
        if config.backend == "python":
            # A copy: Python writes compiled modules next to the ones that it runs.
            shutil.copytree(version, folder / version.name)
        else:
            (folder / version.name).symlink_to(version)


def _tune(config: Any, tuning: Tuning) -> None:
    threads = tuning.threads or len(os.sched_getaffinity(0))
    if "intra_op_thread_count" not in config.parameters:
        config.parameters["intra_op_thread_count"].string_value = str(threads)
    accelerators = config.optimization.execution_accelerators.cpu_execution_accelerator
    for accelerator in accelerators:
        if tuning.cache_dir is not None:
            accelerator.parameters["cache_dir"] = str(tuning.cache_dir)
        if tuning.precision != "auto" and config.name != contract.DECODER.name:
            accelerator.parameters["precision"] = tuning.precision
        if accelerator.name == "openvino":
            # What "auto" means differs between machines, which may share a store.
            precision = accelerator.parameters.get("precision", "auto")
            accelerator.parameters["precision"] = _resolved_precision(precision)


def _resolved_precision(precision: str) -> str:
    try:
        from hqsam_server.runtime.openvino import resolved_precision
    except ImportError as error:
        raise StartError(
            "OpenVINO, which runs the models, is not installed: pip install 'hqsam-triton[cpu]'"
        ) from error
    return resolved_precision(precision)
