"""Arithmetic in place of HQ-SAM, for tests of hundreds of images."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from hqsam_client import contract
from onnx import TensorProto, helper

_MODEL_REPOSITORY = Path(__file__).parents[2] / "model_repository"
_ONNX_MODELS = (contract.ENCODER, contract.DECODER, contract.FEATURES, contract.PROMPT_DECODER)


def write(folder: Path) -> Path:
    """Write the whole repository with cheap models."""
    shutil.copytree(_MODEL_REPOSITORY, folder)
    for spec in _ONNX_MODELS:
        _write_model(spec, folder / spec.name / "1" / "model.onnx")
    return folder


def _write_model(spec: contract.ModelSpec, path: Path) -> None:
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
