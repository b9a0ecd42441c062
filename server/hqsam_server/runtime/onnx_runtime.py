"""Runs an ONNX file on ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnxruntime

from hqsam_server.errors import StartError
from hqsam_server.runtime.config import DTYPES, Arrays, ModelFile, Tensor, check


class OnnxRuntimeModel:
    """A `Model` on ONNX Runtime."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = file.intra_op_threads
        options.inter_op_num_threads = file.inter_op_threads
        options.log_severity_level = 3
        # Several models share the cores: a waiting thread must not spin on one. And the memory
        # that one large request needed is returned.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        try:
            self._session = onnxruntime.InferenceSession(
                str(file.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise StartError(f"ONNX Runtime cannot load {file.path}: {error}") from error
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        check(file, _described(self._session.get_inputs()), _described(self._session.get_outputs()))

    def run(self, inputs: Arrays, requested: Collection[str]) -> Arrays:
        """Run the model; see `Model`."""
        self._file.check_request(inputs)
        names = list(requested)
        return dict(zip(names, self._session.run(names, inputs, self._options), strict=True))


def _described(nodes: Any) -> dict[str, Tensor]:
    names = {dtype.onnx_runtime: triton for triton, dtype in DTYPES.items()}
    return {
        node.name: Tensor(
            names.get(node.type, node.type),
            tuple(d if isinstance(d, int) else -1 for d in node.shape),
        )
        for node in nodes
    }
