"""Writes one graph to an ONNX file and proves that the file does what the module does."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from hqsam_client import contract
from numpy.typing import NDArray
from torch import Tensor, nn

from hqsam_export._errors import VerificationError

OPSET = 18
"""Operator set: the newest that the ONNX Runtime of two years ago runs whole."""

TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}
"""Largest difference from PyTorch by precision, as a share of the output's largest magnitude."""

FP32_OPERATORS = ["LayerNormalization"]
"""Operators that stay in float32 when a file is lowered."""

_SINGLE_FILE_BYTES = 1_900_000_000
"""Above this, weights lie in a file of their own: a protobuf ends at 2 GiB."""


def write(
    graph: nn.Module, spec: contract.ModelSpec, inputs: Mapping[str, Tensor], path: Path
) -> None:
    """Export `graph` to `path` with the names and the static shapes of `spec`.

    Args:
        graph: a module whose arguments and results are those of `spec`, in order.
        spec: the contract of the model.
        inputs: an example for each input.
        path: the file; weights over 1.9 GB are written beside it as `<name>.data`.
    """
    size_bytes = sum(p.nbytes for p in [*graph.parameters(), *graph.buffers()])
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
    program.save(str(path), external_data=size_bytes > _SINGLE_FILE_BYTES)


def _dynamic_dimensions(tensor: contract.TensorSpec) -> dict[int, Any] | None:
    # The prompt axis comes first, the point axis second.
    axes = {axis: "PN"[axis] for axis, size in enumerate(tensor.shape) if size == -1}
    return {axis: torch.export.Dim(name, min=1) for axis, name in axes.items()} or None


class _quiet:  # noqa: N801 - reads as a function
    """Silences loggers that report on their own progress."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]
        self.levels = [logger.level for logger in self.loggers]

    def __enter__(self) -> None:
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)


def lower(path: Path) -> None:
    """Convert a file's weights and arithmetic to float16; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(path)
    lowered = convert_float_to_float16(model, keep_io_types=True, op_block_list=FP32_OPERATORS)
    external = lowered.ByteSize() > _SINGLE_FILE_BYTES
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    onnx.save(lowered, path, save_as_external_data=external, location=f"{path.name}.data")


def shapes(path: Path) -> tuple[list[contract.TensorSpec], list[contract.TensorSpec]]:
    """Read the inputs and outputs that a file declares, ``-1`` where dynamic."""
    graph = onnx.load(path, load_external_data=False).graph
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
    """Check that a file is valid ONNX and declares exactly the tensors of `spec`.

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
        if found != [contract.TensorSpec(t.name, t.dtype, t.shape) for t in expected]:
            raise VerificationError(
                f"{path} breaks the contract of {spec.name}: {kind}s are {_show(found)}, "
                f"expected {_show(expected)}"
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
