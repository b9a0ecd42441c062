"""Runs an ONNX file as Triton's C++ `onnxruntime` backend would, in plain numpy.

From the model's config it reads what that backend reads: `intra_op_thread_count`,
`inter_op_thread_count` and `execution_accelerators`, and it refuses the files that that
one refuses, so that what loads here loads there. `openvino` as accelerator means the
package of that name, which also computes in bf16 where the processor can. Its parameter
`snippets` `off` leaves out OpenVINO's fusion of that name.

A parameter of its own is `max_open_dims`, such as "32,256": what the first, second, …
dimension of an input may be where the config leaves it open. Without it, a request that
is large enough takes all memory of the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from hqsam_server.errors import StartError

Arrays = dict[str, NDArray[Any]]
_Shapes = tuple[tuple[str, tuple[int, ...]], ...]

# Triton's name of a type, as ONNX Runtime and as OpenVINO name it.
_DTYPES = {
    "TYPE_FP32": ("tensor(float)", "f32"),
    "TYPE_FP16": ("tensor(float16)", "f16"),
    "TYPE_INT64": ("tensor(int64)", "i64"),
    "TYPE_INT32": ("tensor(int32)", "i32"),
    "TYPE_BOOL": ("tensor(bool)", "boolean"),
    "TYPE_UINT8": ("tensor(uint8)", "u8"),
}


class RequestError(ValueError):
    """The inputs of a request do not fit the model."""


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
        usual_shapes: shapes of all inputs together, by name, that `model_warmup` names.
        max_open_dims: bounds of the dimensions that the config leaves open, () for none.
    """

    path: Path
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    intra_op_threads: int
    inter_op_threads: int
    openvino: dict[str, str] | None
    usual_shapes: tuple[dict[str, tuple[int, ...]], ...] = ()
    max_open_dims: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], path: Path) -> ModelFile:
        """Read the config that Triton hands to a model, parsed from JSON."""

        def tensors(kind: str) -> dict[str, Tensor]:
            return {
                tensor["name"]: Tensor(tensor["data_type"], tuple(int(d) for d in tensor["dims"]))
                for tensor in config[kind]
            }

        def text(name: str) -> str:
            return str(config["parameters"].get(name, {}).get("string_value", ""))

        def threads(name: str) -> int:
            return int(text(name) or 0)

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
            threads("intra_op_thread_count"),
            threads("inter_op_thread_count"),
            openvino,
            usual_shapes,
            tuple(map(int, filter(None, text("max_open_dims").split(",")))),
        )

    def check_request(self, inputs: Arrays) -> None:
        """Refuse inputs over `max_open_dims`, with `RequestError`."""
        for name, tensor in self.inputs.items():
            shape = inputs[name].shape
            for dim, size, most in zip(tensor.dims, shape, self.max_open_dims, strict=False):
                if dim == -1 and size > most:
                    raise RequestError(
                        f"{name} has shape {list(shape)}, expected at most {most} for the {size}: "
                        "send less at once, or raise max_open_dims on the server"
                    )


class Model(Protocol):
    """A loaded model."""

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        """Return the requested outputs by name.

        The arrays are valid until the next call.

        Raises:
            RequestError: the inputs do not fit.
        """


def open_model(file: ModelFile) -> Model:
    """Load a model.

    Raises:
        StartError: the file is not there, cannot be run, or is not what the config says.
    """
    if not file.path.is_file():
        raise StartError(f"{file.path} is missing: run hqsam export first")
    return _OnnxRuntime(file) if file.openvino is None else _OpenVino(file, file.openvino)


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


class _OnnxRuntime:
    """A model on ONNX Runtime's CPU provider."""

    def __init__(self, file: ModelFile) -> None:
        import onnxruntime

        self._file = file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = file.intra_op_threads
        options.inter_op_num_threads = file.inter_op_threads
        options.log_severity_level = 3
        # Several models share the cores: a thread that waits must not burn one. And memory
        # that one large image needed goes back.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        try:
            self._session = onnxruntime.InferenceSession(
                str(file.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise StartError(f"ONNX Runtime cannot load {file.path}: {error}") from error
        self._invalid = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        check(file, _described(self._session.get_inputs()), _described(self._session.get_outputs()))

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        self._file.check_request(inputs)
        names = list(requested)
        try:
            results = self._session.run(names, inputs, self._options)
        except self._invalid as error:
            raise RequestError(str(error)) from error
        return dict(zip(names, results, strict=True))


def _described(nodes: Any) -> dict[str, Tensor]:
    names = {onnx: triton for triton, (onnx, _) in _DTYPES.items()}
    return {
        node.name: Tensor(
            names.get(node.type, node.type),
            tuple(d if isinstance(d, int) else -1 for d in node.shape),
        )
        for node in nodes
    }


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time write compiled models, as instances and replicas share them.

    OpenVINO writes them in place: who reads one meanwhile is ended by SIGBUS.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError:  # then nobody writes there
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _OpenVino:
    """A model on OpenVINO's CPU plug-in.

    Besides the graph for all shapes there is one for each of the usual ones: where
    dimensions are known, the plug-in chooses memory layouts across operators.
    """

    def __init__(self, file: ModelFile, parameters: Mapping[str, str]) -> None:
        import openvino

        self._file = file
        core = openvino.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precision = parameters.get("precision", "auto")
        hint = "bf16" if precision == "bf16" or (precision == "auto" and bf16) else "f32"
        properties = {
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": file.intra_op_threads,
        }
        if parameters.get("snippets") == "off":
            properties["SNIPPETS_MODE"] = "DISABLE"
        alone: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if "cache_dir" in parameters:
            # OpenVINO looks up by file and shapes alone, and would find another precision's.
            kind = hint + ("-plain" if "SNIPPETS_MODE" in properties else "")
            cache = Path(parameters["cache_dir"], kind)
            properties["CACHE_DIR"] = str(cache)
            alone = _locked(cache / f"{file.path.parents[1].name}.lock")
        # Compiled models are found by the path of their file: without links, which lead
        # there from a folder that is new each time.
        path = str(file.path.resolve())
        try:
            with alone:
                compiled = core.compile_model(path, "CPU", properties)
                self._any_shape = _Graph(compiled, file)
                check(file, _ports(self._any_shape.inputs), _ports(self._any_shape.outputs))
                self._usual: dict[_Shapes, _Graph] = {}
                for shapes in file.usual_shapes:
                    model = core.read_model(path)
                    model.reshape({name: list(shape) for name, shape in shapes.items()})
                    compiled = core.compile_model(model, "CPU", properties)
                    self._usual[tuple(sorted(shapes.items()))] = _Graph(compiled, file)
        except RuntimeError as error:
            raise StartError(f"OpenVINO cannot load {file.path}: {error}") from error

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        self._file.check_request(inputs)
        shapes = tuple(sorted((name, array.shape) for name, array in inputs.items()))
        return self._usual.get(shapes, self._any_shape).run(inputs, requested)


class _Graph:
    """A compiled model, for all shapes or for one."""

    def __init__(self, compiled: Any, file: ModelFile) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = {_name(p, file.inputs): p for p in compiled.inputs}
        self.outputs = {_name(p, file.outputs): p for p in compiled.outputs}

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        for name, port in self.inputs.items():
            expected = port.get_partial_shape()
            if not expected.compatible(_partial_shape(inputs[name].shape)):
                raise RequestError(
                    f"{name} has shape {list(inputs[name].shape)}, expected {expected}"
                )
        feeds = {port: inputs[name] for name, port in self.inputs.items()}
        try:
            self._request.infer(feeds, share_inputs=True)
        except RuntimeError as error:
            # Shapes fit one by one and not together.
            raise RequestError(str(error).strip().splitlines()[-1]) from error
        return {name: self._request.get_tensor(self.outputs[name]).data for name in requested}


def _partial_shape(shape: tuple[int, ...]) -> Any:
    import openvino

    return openvino.PartialShape(list(shape))


def _name(port: Any, declared: Collection[str]) -> str:
    """Return the one of a port's names that the config uses."""
    names: set[str] = port.get_names()
    return next((name for name in sorted(names) if name in declared), sorted(names)[0])


def _ports(ports: Mapping[str, Any]) -> dict[str, Tensor]:
    names = {openvino: triton for triton, (_, openvino) in _DTYPES.items()}
    return {
        name: Tensor(
            names.get(port.get_element_type().get_type_name(), "unknown"),
            tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape()),
        )
        for name, port in ports.items()
    }
