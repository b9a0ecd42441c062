"""What a model's config.pbtxt says of its ONNX file, read as Triton's C++ backend reads it.

Read from the config: `intra_op_thread_count`, `inter_op_thread_count` and
`execution_accelerators`. Files that the C++ `onnxruntime` backend refuses are refused here too,
so that a repository which loads here loads there.

One parameter is this project's own: `max_open_dims`, such as "32,256", bounds the dimensions
that the config leaves open, by position: here up to 32 for the first and 256 for the second
dimension of any input. Each such dimension has to be the same in all inputs. Without a bound, one
large request can take all memory of the machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from hqsam_server.errors import BadRequestError, StartError

Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[int, ...]]
"""Shapes of all inputs of a model, by name."""


class Dtype(NamedTuple):
    """A type of tensors under each of its names."""

    onnx_runtime: str
    openvino: str
    numpy: type[np.generic]


DTYPES = {
    "TYPE_FP32": Dtype("tensor(float)", "f32", np.float32),
    "TYPE_FP16": Dtype("tensor(float16)", "f16", np.float16),
    "TYPE_INT64": Dtype("tensor(int64)", "i64", np.int64),
    "TYPE_INT32": Dtype("tensor(int32)", "i32", np.int32),
    "TYPE_BOOL": Dtype("tensor(bool)", "boolean", np.bool_),
    "TYPE_UINT8": Dtype("tensor(uint8)", "u8", np.uint8),
}
"""By Triton's name."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: its Triton type, and its dimensions with -1 where dynamic."""

    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file and what its model's config says of it.

    Attributes:
        path: the file.
        inputs: as the config declares them, by name.
        outputs: likewise.
        intra_op_threads: threads within an operator, 0 for the runtime's default.
        inter_op_threads: operators at once, 0 for the runtime's default.
        openvino: parameters of the `openvino` accelerator, None without it.
        usual_shapes: the shapes of the inputs in each sample of `model_warmup`.
        max_open_dims: bounds of the dimensions that the config leaves open, () for none.
        gpu_accelerators: parameters of each accelerator for GPUs by name.
    """

    path: Path
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    intra_op_threads: int
    inter_op_threads: int
    openvino: dict[str, str] | None
    usual_shapes: tuple[Shapes, ...] = ()
    max_open_dims: tuple[int, ...] = ()
    gpu_accelerators: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ModelFile:
        """Read the config of a model in a repository's folder, and find its file.

        Raises:
            StartError: the config or the file is missing, or the config cannot be read.
        """
        config = model_config_pb2.ModelConfig()
        try:
            text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), config)
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise StartError(f"cannot read {folder / 'config.pbtxt'}: {error}") from error
        file = folder / "1" / "model.onnx"
        if not file.is_file():
            raise StartError(f"{file} is missing: run hqsam export first")
        return cls.of(json_format.MessageToDict(config, preserving_proto_field_name=True), file)

    @classmethod
    def of(cls, config: Mapping[str, Any], path: Path) -> ModelFile:
        """Read the config that Triton hands to a model, parsed from JSON."""

        def tensors(kind: str) -> dict[str, Tensor]:
            return {
                tensor["name"]: Tensor(tensor["data_type"], tuple(int(d) for d in tensor["dims"]))
                for tensor in config[kind]
            }

        def text(name: str) -> str:
            return str(config.get("parameters", {}).get(name, {}).get("string_value", ""))

        accelerators = config.get("optimization", {}).get("execution_accelerators", {})
        openvino = None
        for accelerator in accelerators.get("cpu_execution_accelerator", []):
            if accelerator["name"] == "openvino":
                openvino = dict(accelerator.get("parameters", {}))
        usual_shapes = tuple(
            {
                name: tuple(int(d) for d in tensor["dims"])
                for name, tensor in sample["inputs"].items()
            }
            for sample in config.get("model_warmup", [])
        )
        return cls(
            path,
            tensors("input"),
            tensors("output"),
            int(text("intra_op_thread_count") or 0),
            int(text("inter_op_thread_count") or 0),
            openvino,
            usual_shapes,
            tuple(map(int, filter(None, text("max_open_dims").split(",")))),
            {
                accelerator["name"]: dict(accelerator.get("parameters", {}))
                for accelerator in accelerators.get("gpu_execution_accelerator", [])
            },
        )

    def check_request(self, inputs: Arrays) -> None:
        """Check the inputs of a request, by name, before anything is computed.

        The runtimes do not tell bad inputs from their own failures, and OpenVINO may even answer
        inputs that do not fit together.

        Raises:
            BadRequestError: their dtypes or shapes do not fit the model.
        """
        sizes: dict[int, tuple[str, int]] = {}  # of each open dimension, and whose it is
        for name, tensor in self.inputs.items():
            array = inputs[name]
            if array.dtype != DTYPES[tensor.dtype].numpy:
                raise BadRequestError(f"{name} is {array.dtype}, expected {tensor.dtype}")
            fits = array.ndim == len(tensor.dims) and all(
                declared in (-1, size)
                for declared, size in zip(tensor.dims, array.shape, strict=True)
            )
            if not fits:
                raise BadRequestError(
                    f"{name} has shape {list(array.shape)}, expected {list(tensor.dims)}"
                )
            for position, most in enumerate(self.max_open_dims[: array.ndim]):
                if tensor.dims[position] == -1:
                    _check_open(name, array.shape, position, most)
                    other, size = sizes.setdefault(position, (name, array.shape[position]))
                    if array.shape[position] != size:
                        raise BadRequestError(
                            f"{name} has shape {list(array.shape)}, expected {size} for the "
                            f"{array.shape[position]}, as in {other}"
                        )


def _check_open(name: str, shape: tuple[int, ...], position: int, most: int) -> None:
    size = shape[position]
    if size < 1:
        raise BadRequestError(f"{name} has shape {list(shape)}, expected at least 1 for the {size}")
    if size > most:
        raise BadRequestError(
            f"{name} has shape {list(shape)}, expected at most {most} for the {size}: "
            "send less at once, or raise max_open_dims on the server"
        )


class Model(Protocol):
    """A loaded model."""

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        """Return the requested outputs by name, in arrays that belong to the caller.

        Raises:
            BadRequestError: the inputs do not fit the model.
            Exception: the runtime failed; the inputs are not at fault.
        """


def check(file: ModelFile, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    """Compare the config with the file as the C++ backend does.

    Outputs have to be declared exactly, -1 exactly where the file is dynamic. An input may
    be fixed in the config where the file is dynamic.

    Raises:
        StartError: they differ.
    """
    for kind, declared, found in (
        ("input", file.inputs, inputs),
        ("output", file.outputs, outputs),
    ):
        unknown = declared.keys() - found.keys()
        if unknown or (kind == "input" and declared.keys() != found.keys()):
            raise StartError(
                f"{file.path}: config.pbtxt declares the {kind}s {sorted(declared)}, the file "
                f"has {sorted(found)}"
            )
        for name, tensor in declared.items():
            actual = found[name]
            fits = tensor.dtype == actual.dtype and len(tensor.dims) == len(actual.dims)
            fits = fits and all(
                a == b or (kind == "input" and b == -1)
                for a, b in zip(tensor.dims, actual.dims, strict=True)
            )
            if not fits:
                raise StartError(
                    f"{file.path}: config.pbtxt declares the {kind} {name} as {tensor.dtype} "
                    f"{list(tensor.dims)}, the file has {actual.dtype} {list(actual.dims)}"
                )
