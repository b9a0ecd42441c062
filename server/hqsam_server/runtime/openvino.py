"""Runs an ONNX file on OpenVINO's CPU plug-in, in bf16 where the processor has it.

Parameters of the accelerator `openvino` in config.pbtxt: `precision` (auto, bf16 or fp32),
`snippets` ("off" leaves out OpenVINO's fusion of that name) and `cache_dir`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import openvino

from hqsam_server import file_lock
from hqsam_server.errors import StartError
from hqsam_server.runtime.config import DTYPES, Arrays, ModelFile, Shapes, Tensor, check

# Compiling takes seconds. A holder that takes longer may be stopped.
_CACHE_LOCK_S = 60.0


_COMPILING = Lock()
"""One graph at a time, whatever the threads of a process want."""


def resolved_precision(precision: str) -> str:
    """Return "bf16" or "fp32": what "auto" means on this machine, or what was asked for."""
    if precision != "auto":
        return precision
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "fp32"


class Compiler:
    """Compiles graphs of a model's file as its config says."""

    def __init__(self, file: ModelFile, parameters: Mapping[str, str]) -> None:
        """Read the accelerator's parameters; raises `StartError` later, in `compile`."""
        self._file = file
        self._core = openvino.Core()
        precision = resolved_precision(parameters.get("precision", "auto"))
        self.hint = "bf16" if precision == "bf16" else "f32"
        self._properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.hint}
        if parameters.get("snippets") == "off":
            self._properties["SNIPPETS_MODE"] = "DISABLE"
        self._cache_dir = parameters.get("cache_dir")
        # Compiled models are found by the path of their file. A server's folder is new each
        # time and links to the file: resolve the link.
        self._path = str(file.path.resolve())

    def read(self) -> openvino.Model:
        """Return the file's graph, to be changed before it is compiled.

        Raises:
            StartError: it cannot be read.
        """
        with self._refusals():
            return self._core.read_model(self._path)

    def compile(
        self, graph: openvino.Model | None = None, *, threads: int
    ) -> openvino.CompiledModel:
        """Compile a graph for one run at a time.

        It never has two streams: OpenVINO 2026.4 prepares the weights of both at once, and every
        fourth graph of `prompt_decoder` then gives wrong masks in bf16.

        Args:
            graph: what `read` returned; None for the file as it is, for all shapes.
            threads: of a run, 0 for OpenVINO's default.

        Raises:
            StartError: it cannot be compiled.
        """
        properties = {
            **self._properties,
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Otherwise the first thread of each graph is bound to the same core, and graphs that
            # run at once share it.
            "ENABLE_CPU_PINNING": False,
        }
        lock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self._cache_dir is not None:
            # OpenVINO finds compiled models by file and shapes alone, so other settings need
            # folders of their own.
            kind = self.hint + ("-plain" if "SNIPPETS_MODE" in properties else "")
            cache = Path(self._cache_dir, kind)
            # Without a folder, OpenVINO would not load the model. It reads one that is read-only.
            with contextlib.suppress(OSError):
                cache.mkdir(parents=True, exist_ok=True, mode=0o700)
                properties["CACHE_DIR"] = str(cache)
                lock = _cache_lock(cache / f"{self._file.path.parents[1].name}.lock")
        with self._refusals(), lock, _COMPILING:
            return self._core.compile_model(graph or self._path, "CPU", properties)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise StartError(f"OpenVINO cannot load {self._file.path}: {error}") from error


class OpenVinoModel:
    """A `Model` on OpenVINO.

    Besides the graph for all shapes it compiles one for each of the usual shapes: where
    dimensions are known, the plug-in chooses memory layouts across operators.
    """

    def __init__(self, file: ModelFile, parameters: Mapping[str, str]) -> None:
        self._file = file
        compiler = Compiler(file, parameters)
        self._any_shape = _Graph(compiler.compile(threads=file.intra_op_threads), file)
        check(file, described(self._any_shape.inputs), described(self._any_shape.outputs))
        self._usual: dict[frozenset[tuple[str, tuple[int, ...]]], _Graph] = {}
        for shapes in file.usual_shapes:
            graph = compiler.read()
            graph.reshape({name: list(shape) for name, shape in shapes.items()})
            compiled = compiler.compile(graph, threads=file.intra_op_threads)
            self._usual[_key(shapes)] = _Graph(compiled, file)

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        """Run the model; see `Model`."""
        self._file.check_request(inputs)
        shapes = _key({name: array.shape for name, array in inputs.items()})
        return self._usual.get(shapes, self._any_shape).run(inputs, requested)


class _Graph:
    """A compiled model, for all shapes or for one."""

    def __init__(self, compiled: Any, file: ModelFile) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = named_ports(compiled.inputs, file.inputs)
        self.outputs = named_ports(compiled.outputs, file.outputs)

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


def named_ports(ports: Iterable[Any], declared: Collection[str]) -> dict[str, Any]:
    """Return inputs or outputs under the names that the config gives them; a port has several."""
    found = {}
    for port in ports:
        names = sorted(port.get_names())
        found[next((name for name in names if name in declared), names[0])] = port
    return found


def described(ports: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return types and shapes of `named_ports`."""
    names = {dtype.openvino: triton for triton, dtype in DTYPES.items()}
    return {
        name: Tensor(
            names.get(port.get_element_type().get_type_name(), "unknown"),
            tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape()),
        )
        for name, port in ports.items()
    }
