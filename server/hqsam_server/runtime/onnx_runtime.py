"""Runs an ONNX file on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnxruntime

from hqsam_server.errors import StartError
from hqsam_server.runtime.config import DTYPES, Arrays, ModelFile, Tensor, check

CPU = ("CPUExecutionProvider",)
"""Providers of a session on the CPU."""

_ONLY_REQUESTED = onnxruntime.RunOptions()
_ONLY_REQUESTED.only_execute_path_to_fetches = True


class OnnxRuntimeModel:
    """A `Model` on ONNX Runtime's CPU provider."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._session = open_session(file, file.intra_op_threads)

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        """Run the model; see `Model`."""
        self._file.check_request(inputs)
        return run_session(self._session, inputs, requested)


def open_session(
    file: ModelFile, threads: int, providers: Sequence[Any] = CPU
) -> onnxruntime.InferenceSession:
    """Open a file.

    Args:
        file: the file and its config.
        threads: threads within an operator, 0 for the runtime's default.
        providers: those to use, as ONNX Runtime names them.

    Raises:
        StartError: the file cannot be loaded, or contradicts its config.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = file.inter_op_threads
    options.log_severity_level = 3
    # Several models share the cores: a waiting thread must not spin on one. And the memory
    # that one large request needed is returned.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(str(file.path), options, providers=list(providers))
    except Exception as error:
        raise StartError(f"ONNX Runtime cannot load {file.path}: {error}") from error
    check(file, _described(session.get_inputs()), _described(session.get_outputs()))
    return session


def run_session(
    session: onnxruntime.InferenceSession, inputs: Arrays, requested: Collection[str]
) -> Arrays:
    """Compute the requested outputs only, and return them by name."""
    names = list(requested)
    return dict(zip(names, session.run(names, inputs, _ONLY_REQUESTED), strict=True))


def _described(nodes: Any) -> dict[str, Tensor]:
    names = {dtype.onnx_runtime: triton for triton, dtype in DTYPES.items()}
    return {
        node.name: Tensor(
            names.get(node.type, node.type),
            tuple(d if isinstance(d, int) else -1 for d in node.shape),
        )
        for node in nodes
    }
