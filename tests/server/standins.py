"""Model repositories that load in a second: arithmetic instead of HQ-SAM."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

GATE = '''
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers with the content of the named pipe whose path it gets, once that is closed."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        path = bytes(pb_utils.get_input_tensor_by_name(request, "path").as_numpy()[0]).decode()
        with open(path, "rb") as pipe:
            said = np.frombuffer(pipe.read(), np.uint8)
        return pb_utils.InferenceResponse([pb_utils.Tensor("said", said)])
'''

CALLER = '''
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Passes its input on to `numbers`."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        result = pb_utils.InferenceRequest(
            model_name="numbers", requested_output_names=["sum"], inputs=request.inputs()
        ).exec()
        return pb_utils.InferenceResponse(result.output_tensors(), result.error())
'''

WHO = '''
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Says which parameters the request has."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        said = np.frombuffer(json.dumps(json.loads(request.parameters())).encode(), np.uint8)
        return pb_utils.InferenceResponse([pb_utils.Tensor("said", said)])
'''

PYTHON_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input [ {{ name: "{input}", data_type: {input_type}, dims: [ {input_dims} ] }} ]
output [ {{ name: "{output}", data_type: {output_type}, dims: [ -1 ] }} ]
instance_group [ {{ count: {count}, kind: KIND_CPU }} ]
"""

NUMBERS_CONFIG = """
name: "numbers"
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "x", data_type: TYPE_FP32, dims: [ -1, 2 ] } ]
output [
  { name: "sum", data_type: TYPE_FP32, dims: [ -1 ] },
  { name: "double", data_type: TYPE_FP32, dims: [ -1, 2 ] }
]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""

OPENVINO = """
optimization { execution_accelerators { cpu_execution_accelerator [ { name: "openvino" } ] } }
"""

PIPELINE_CONFIG = """
name: "pipeline"
platform: "ensemble"
max_batch_size: 0
input [ { name: "x", data_type: TYPE_FP32, dims: [ -1, 2 ] } ]
output [ { name: "sum", data_type: TYPE_FP32, dims: [ -1 ] } ]
ensemble_scheduling { step [ {
  model_name: "numbers" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "sum" value: "sum" }
} ] }
"""


def numbers_onnx(path: Path) -> Path:
    """Write a file whose outputs, for x [N, 2], are the sum [N] and the double [N, 2]."""
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "x"], ["double"]),
        ],
        "numbers",
        [helper.make_tensor_value_info("x", float32, ["N", 2])],
        [
            helper.make_tensor_value_info("sum", float32, ["N"]),
            helper.make_tensor_value_info("double", float32, ["N", 2]),
        ],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


MODELS = ("numbers", "caller", "pipeline", "gate", "who")


def write(folder: Path) -> Path:
    """Write a repository of every kind of model that the real one has.

    `numbers` is ONNX on OpenVINO, `caller` calls it, `pipeline` is an ensemble of it, and
    `gate` answers when the test says so. `who` tells the request's parameters.
    """
    numbers_onnx(folder / "numbers" / "1" / "model.onnx")
    (folder / "numbers" / "config.pbtxt").write_text(NUMBERS_CONFIG + OPENVINO)
    (folder / "pipeline" / "1").mkdir(parents=True)
    (folder / "pipeline" / "config.pbtxt").write_text(PIPELINE_CONFIG)
    x = {"input": "x", "input_type": "TYPE_FP32", "input_dims": "-1, 2"}
    total = {"output": "sum", "output_type": "TYPE_FP32"}
    _python(folder / "caller", CALLER, **x, **total, count="2")
    path = {"input": "path", "input_type": "TYPE_STRING", "input_dims": "1"}
    said = {"output": "said", "output_type": "TYPE_UINT8"}
    _python(folder / "gate", GATE, **path, **said, count="1")
    _python(folder / "who", WHO, **x, **said, count="1")
    return folder


def _python(folder: Path, source: str, **config: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(source)
    (folder / "config.pbtxt").write_text(PYTHON_CONFIG.format(name=folder.name, **config))
