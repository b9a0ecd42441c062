"""The `onnxruntime` backend of a Triton that has no C++ one: an adapter of `_onnx_backend`."""

import json
import os
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from hqsam_server.models import adapter
from hqsam_server.runtime.onnx_backend import ModelFile, RequestError, open_model


class TritonPythonModel:
    """One instance of an ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        os.nice(int(config["parameters"].get("nice", {}).get("string_value", "0")))
        adapter.report_restarts()
        self._model = open_model(ModelFile.of(config, folder / "model.onnx"))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            outputs = self._model.run(inputs, request.requested_output_names())
        except RequestError as error:
            code = pb_utils.TritonError.INVALID_ARG
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error), code))
        except Exception as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in outputs.items()])
