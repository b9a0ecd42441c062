"""Runs an ONNX file on OpenVINO's CPU plug-in, in bf16 where the processor has it.

Parameters of the accelerator `openvino` in config.pbtxt: `precision` (auto, bf16 or fp32),
`snippets` ("off" leaves out OpenVINO's fusion of that name) and `cache_dir`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from hqsam_server import file_lock
from hqsam_server.errors import StartError
from hqsam_server.runtime.config import DTYPES, Arrays, ModelFile, Shapes, Tensor, check

# Compiling takes seconds. A holder that takes longer may be stopped.
_CACHE_LOCK_S = 60.0


def resolved_precision(precision: str) -> str:
    """Return "bf16" or "fp32": what "auto" means on this machine, or what was asked for."""
    if precision != "auto":
        return precision
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "fp32"


class OpenVinoModel:
    """A `Model` on OpenVINO.

    Besides the graph for all shapes it compiles one for each of the usual shapes: where
    dimensions are known, the plug-in chooses memory layouts across operators.
    """

    def __init__(self, file: ModelFile, parameters: Mapping[str, str]) -> None:
        self._file = file
        core = openvino.Core()
        hint = (
            "bf16" if resolved_precision(parameters.get("precision", "auto")) == "bf16" else "f32"
        )
        properties = {
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": file.intra_op_threads,
        }
        if parameters.get("snippets") == "off":
            properties["SNIPPETS_MODE"] = "DISABLE"
        lock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if "cache_dir" in parameters:
            # OpenVINO finds compiled models by file and shapes alone, so other settings need
            # folders of their own.
            kind = hint + ("-plain" if "SNIPPETS_MODE" in properties else "")
            cache = Path(parameters["cache_dir"], kind)
            # Without a folder, OpenVINO would not load the model. It reads one that is read-only.
            with contextlib.suppress(OSError):
                cache.mkdir(parents=True, exist_ok=True, mode=0o700)
                properties["CACHE_DIR"] = str(cache)
                lock = _cache_lock(cache / f"{file.path.parents[1].name}.lock")
        # Compiled models are found by the path of their file. A server's folder is new each
        # time and links to the file: resolve the link.
        path = str(file.path.resolve())
        try:
            with lock:
                compiled = core.compile_model(path, "CPU", properties)
                self._any_shape = _Graph(compiled, file)
                check(file, _ports(self._any_shape.inputs), _ports(self._any_shape.outputs))
                self._usual: dict[frozenset[tuple[str, tuple[int, ...]]], _Graph] = {}
                for shapes in file.usual_shapes:
                    model = core.read_model(path)
                    model.reshape({name: list(shape) for name, shape in shapes.items()})
                    compiled = core.compile_model(model, "CPU", properties)
                    self._usual[_key(shapes)] = _Graph(compiled, file)
        except RuntimeError as error:
            raise StartError(f"OpenVINO cannot load {file.path}: {error}") from error

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        """Run the model; see `Model`."""
        self._file.check_request(inputs)
        shapes = _key({name: array.shape for name, array in inputs.items()})
        return self._usual.get(shapes, self._any_shape).run(inputs, requested)


class _Graph:
    """A compiled model, for all shapes or for one."""

    def __init__(self, compiled: Any, file: ModelFile) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = {_name(p, file.inputs): p for p in compiled.inputs}
        self.outputs = {_name(p, file.outputs): p for p in compiled.outputs}

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        feeds = {port: inputs[name] for name, port in self.inputs.items()}
        self._request.infer(feeds, share_inputs=True)
        # Copies: the next run writes into the same memory.
        return {
            name: np.array(self._request.get_tensor(self.outputs[name]).data) for name in requested
        }


def _key(shapes: Shapes) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset(shapes.items())


@contextlib.contextmanager
def _cache_lock(path: Path) -> Iterator[None]:
    """Let one process at a time write compiled models, which instances and servers share.

    OpenVINO writes them in place; a process that reads one meanwhile dies of SIGBUS.
    """
    with contextlib.ExitStack() as stack:
        # Nothing is written to a folder that is read-only; a holder that is stopped writes nothing.
        with contextlib.suppress(OSError):
            stack.enter_context(file_lock.locked(path, _CACHE_LOCK_S))
        yield


def _name(port: Any, declared: Collection[str]) -> str:
    """Return the one of a port's names that the config uses."""
    names: set[str] = port.get_names()
    return next((name for name in sorted(names) if name in declared), sorted(names)[0])


def _ports(ports: Mapping[str, Any]) -> dict[str, Tensor]:
    names = {dtype.openvino: triton for triton, dtype in DTYPES.items()}
    return {
        name: Tensor(
            names.get(port.get_element_type().get_type_name(), "unknown"),
            tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape()),
        )
        for name, port in ports.items()
    }
