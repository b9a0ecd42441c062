"""Runs ONNX files where Triton has no C++ backend for them.

`config` holds what a model's config.pbtxt says of its file, `onnx_runtime` and `openvino` run it.
"""

from __future__ import annotations

from hqsam_server.errors import StartError
from hqsam_server.runtime.config import Model, ModelFile


def open_model(file: ModelFile) -> Model:
    """Load a model on the runtime that its config names: OpenVINO or ONNX Runtime.

    Raises:
        StartError: the file is missing, cannot be loaded, or contradicts the config.
    """
    if not file.path.is_file():
        raise StartError(f"{file.path} is missing: run hqsam export first")
    # Imported here: each process loads one runtime only.
    if file.openvino is None:
        from hqsam_server.runtime.onnx_runtime import OnnxRuntimeModel

        return OnnxRuntimeModel(file)
    from hqsam_server.runtime.openvino import OpenVinoModel

    return OpenVinoModel(file, file.openvino)
