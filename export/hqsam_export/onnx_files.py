"""Writes a graph to an ONNX file, and checks that the file computes what the module does."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from hqsam_client import contract
from numpy.typing import NDArray
from torch import Tensor, nn

from hqsam_export.errors import VerificationError

OPSET = 18
"""Operator set: the newest that two-year-old releases of ONNX Runtime fully support."""

TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2, "fp16-weights": 5e-2}
"""Largest difference from PyTorch by precision, as a share of the output's largest magnitude."""

FP32_OPERATORS = ["LayerNormalization"]
"""Operators that stay in float32 when a file is lowered."""

_SINGLE_FILE_BYTES = 1_900_000_000
"""Weights of more bytes go into a file of their own: a protobuf message ends at 2 GiB."""


def write(
    graph: nn.Module, spec: contract.ModelSpec, inputs: Mapping[str, Tensor], path: Path
) -> None:
    """Export `graph` to `path` with the names and the static shapes of `spec`.

    Args:
        graph: a module whose arguments and results are those of `spec`, in order.
        spec: the contract of the model.
        inputs: an example for each input.
        path: the file; weights over 1.9 GB are written to `<name>.data` beside it.
    """
    dynamic = tuple(_dynamic_dimensions(tensor) for tensor in spec.inputs)
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs[tensor.name] for tensor in spec.inputs),
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - None is for a path argument, which was not given
    # Metadata of nodes names source files of this machine.
    program.model.graph.metadata_props.clear()
    for node in program.model.graph:
        node.metadata_props.clear()
    weights = program.model.graph.initializers.values()
    size_bytes = sum(weight.const_value.nbytes for weight in weights if weight.const_value)
    program.save(str(path), external_data=size_bytes > _SINGLE_FILE_BYTES)


def _dynamic_dimensions(tensor: contract.TensorSpec) -> dict[int, Any] | None:
    # The prompt axis comes first, the point axis second.
    axes = {axis: "PN"[axis] for axis, size in enumerate(tensor.shape) if size == -1}
    return {axis: torch.export.Dim(name, min=1) for axis, name in axes.items()} or None


class _quiet:  # noqa: N801 - reads as a function
    """Silences loggers that report progress."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]
        self.levels = [logger.level for logger in self.loggers]

    def __enter__(self) -> None:
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)


def open_first_dimension(path: Path, names: Collection[str]) -> None:
    """Let a file take inputs for each prompt that it was traced with for all prompts together.

    Their first dimension was 1. Operators broadcast it anyway; only reshapes know it by number.

    Args:
        path: the file.
        names: of the inputs.
    """
    model = onnx.load(path)
    graph = model.graph
    opened = set()
    for value in graph.input:
        first = value.type.tensor_type.shape.dim[0]
        if value.name in names and first.HasField("dim_value"):
            first.dim_param = "I"
            opened.add(value.name)
    weights = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Transpose", "Reshape") or node.input[0] not in opened:
            continue
        opened.add(node.output[0])
        if node.op_type == "Reshape":
            shape = onnx.numpy_helper.to_array(weights[node.input[1]])
            name = f"{node.output[0]}_shape"
            shape = np.array([-1, *shape[1:]], np.int64)
            graph.initializer.append(onnx.numpy_helper.from_array(shape, name))
            node.input[1] = name
    # The shapes that were known before, of values and for reshapes.
    _keep(graph.value_info, lambda value: value.name not in opened)
    used = {name for node in graph.node for name in node.input}
    _keep(graph.initializer, lambda weight: weight.name in used)
    _save(model, path)


def _keep(entries: Any, condition: Callable[[Any], bool]) -> None:
    """Remove those of a message's repeated entries that do not fulfil a condition."""
    for index in reversed(range(len(entries))):
        if not condition(entries[index]):
            del entries[index]


def lower(path: Path, fp32_operators: Sequence[str] = FP32_OPERATORS) -> None:
    """Convert weights and arithmetic to float16; inputs, outputs and norms stay float32.

    Norms sum squares, which would overflow float16.

    Args:
        path: the file, which is replaced.
        fp32_operators: types of operators that stay in float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    # The file has the types of all values; inferring them again fails over 2 GiB.
    lowered = convert_float_to_float16(
        onnx.load(path),
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=list(fp32_operators),
    )
    # The casts were appended, and ONNX wants nodes in topological order.
    model = OnnxModel(lowered)
    model.topological_sort()
    _save(model.model, path)


def halve(path: Path) -> None:
    """Store weights as float16; arithmetic, inputs and outputs stay float32.

    A cast follows each weight; runtimes apply it once, when they load the file.
    """
    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        name, stored = weight.name, f"{weight.name}_fp16"
        limits = np.finfo(np.float16)
        values = np.clip(onnx.numpy_helper.to_array(weight), limits.min, limits.max)
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _save(model, path)


def _save(model: onnx.ModelProto, path: Path) -> None:
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    external = model.ByteSize() > _SINGLE_FILE_BYTES
    onnx.save(model, path, save_as_external_data=external, location=data.name)


def shapes(path: Path) -> tuple[list[contract.TensorSpec], list[contract.TensorSpec]]:
    """Read the inputs and outputs that a file declares, ``-1`` where dynamic.

    Raises:
        VerificationError: it is not an ONNX file.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise VerificationError(f"{path} is not valid ONNX: it cannot be parsed") from error
    return (
        [_tensor_spec(value) for value in graph.input],
        [_tensor_spec(value) for value in graph.output],
    )


def _tensor_spec(value: onnx.ValueInfoProto) -> contract.TensorSpec:
    kind = value.type.tensor_type
    dtype = "FP32" if kind.elem_type == onnx.TensorProto.FLOAT else f"ONNX:{kind.elem_type}"
    dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return contract.TensorSpec(value.name, dtype, dims)


def check(path: Path, spec: contract.ModelSpec) -> None:
    """Check that a file is valid ONNX and declares the tensors of `spec`.

    As in Triton, the file may leave a dimension of an input open that `spec` fixes.

    Raises:
        VerificationError: it is not, or it does not.
    """
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise VerificationError(f"{path} is not valid ONNX: {error}") from error
    inputs, outputs = shapes(path)
    for kind, found, expected in (
        ("input", inputs, spec.inputs),
        ("output", outputs, spec.outputs),
    ):
        fits = len(found) == len(expected) and all(
            (of_file.name, of_file.dtype) == (tensor.name, tensor.dtype)
            and _fits(of_file.shape, tensor.shape, may_be_open=kind == "input")
            for of_file, tensor in zip(found, expected, strict=True)
        )
        if not fits:
            raise VerificationError(
                f"{path} breaks the contract of {spec.name}: {kind}s are {_show(found)}, "
                f"expected {_show(expected)}"
            )


def _fits(found: Sequence[int], expected: Sequence[int], may_be_open: bool) -> bool:
    return len(found) == len(expected) and all(
        a == b or (may_be_open and a == -1) for a, b in zip(found, expected, strict=True)
    )


def _show(tensors: Any) -> str:
    return ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in tensors)


def run(path: Path, inputs: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    """Run a file on ONNX Runtime's CPU provider and return its outputs in order."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Freed memory goes back at once: the encoder's attention takes gigabytes.
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(
        None, {name: tensor.numpy() for name, tensor in inputs.items()}
    )
    return outputs


def compare(
    outputs: list[NDArray[np.float32]],
    references: tuple[Tensor, ...],
    spec: contract.ModelSpec,
    tolerance: float,
) -> float:
    """Compare a file's outputs with PyTorch's.

    Returns:
        the largest difference over all outputs, each as a share of that output's
        largest magnitude.

    Raises:
        VerificationError: it is above `tolerance`, or a shape is wrong.
    """
    worst = 0.0
    for output, reference, tensor in zip(outputs, references, spec.outputs, strict=True):
        expected = reference.numpy()
        if output.shape != expected.shape:
            raise VerificationError(
                f"{spec.name}: {tensor.name} has shape {output.shape}, expected {expected.shape}"
            )
        scale = max(float(np.abs(expected).max()), 1e-6)
        difference = float(np.abs(output - expected).max()) / scale
        if not difference <= tolerance:
            raise VerificationError(
                f"{spec.name}: {tensor.name} differs from PyTorch by {difference:.1e} of its "
                f"largest magnitude, more than {tolerance:.0e}"
            )
        worst = max(worst, difference)
    return worst


def mask_iou(logits: NDArray[np.float32], reference: Tensor) -> float:
    """Return the lowest intersection over union of masks [P, 1, H, W] with the reference's."""
    found, expected = logits > 0, reference.numpy() > 0
    axes = (1, 2, 3)
    union = (found | expected).sum(axis=axes)
    shared = (found & expected).sum(axis=axes)
    # Two empty masks are the same mask.
    return float(np.where(union == 0, 1.0, shared / np.maximum(union, 1)).min())
