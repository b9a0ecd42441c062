"""The `onnxruntime` backend of a Triton that has no C++ one: adapts `hqsam_server.runtime`."""

import json
from pathlib import Path
from typing import Any

from hqsam_server.models import adapter
from hqsam_server.runtime import open_model
from hqsam_server.runtime.config import Arrays, ModelFile


class TritonPythonModel:
    """One instance of an ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        adapter.lower_priority(args)
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        adapter.report_restarts()
        self._model = open_model(ModelFile.of(config, folder / "model.onnx"))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return adapter.answer(requests, self._run, inner=True)

    def _run(self, request: Any) -> Arrays:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return self._model.run(inputs, request.requested_output_names())
