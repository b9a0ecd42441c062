"""The embedded `onnxruntime` backend, on both of its runtimes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from hqsam_server import TritonServer, small_model
from hqsam_server.errors import BadRequestError, StartError
from hqsam_server.runtime import open_model
from hqsam_server.runtime.config import ModelFile, Tensor
from hqsam_testing import configs
from hqsam_testing.serve_process import X, infer, works
from hqsam_testing.waiting import TIMEOUT_S
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

INPUTS = {"x": Tensor("TYPE_FP32", (-1, 2))}
OUTPUTS = {"sum": Tensor("TYPE_FP32", (-1,)), "double": Tensor("TYPE_FP32", (-1, 2))}
OPENVINO = {"precision": "fp32"}


@pytest.fixture(params=[None, OPENVINO], ids=["onnxruntime", "openvino"])
def file(request: pytest.FixtureRequest, repository: Path) -> ModelFile:
    path = repository / "numbers" / "1" / "model.onnx"
    return ModelFile(path, INPUTS, OUTPUTS, 1, 1, request.param)


def test_both_runtimes_agree(file: ModelFile) -> None:
    x = np.random.default_rng(0).standard_normal((1000, 2), np.float32)
    outputs = open_model(file).run({"x": x}, ["double", "sum"])
    np.testing.assert_allclose(outputs["sum"], x.sum(axis=1), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(outputs["double"], 2 * x)


def test_only_the_outputs_asked_for_are_answered(file: ModelFile) -> None:
    assert open_model(file).run({"x": X}, ["double"]).keys() == {"double"}


def test_an_input_of_the_wrong_shape_is_refused_and_the_next_one_answered(file: ModelFile) -> None:
    model = open_model(file)
    for shape in ((2, 3), (2,), (1, 2, 2)):
        with pytest.raises(BadRequestError):
            model.run({"x": np.zeros(shape, np.float32)}, ["sum"])
    assert model.run({"x": X}, ["sum"])["sum"].tolist() == [3, 7]


def test_an_input_of_the_wrong_dtype_is_refused(file: ModelFile) -> None:
    with pytest.raises(BadRequestError, match="x is float64, expected TYPE_FP32"):
        open_model(file).run({"x": np.zeros((2, 2))}, ["sum"])


def test_the_next_run_leaves_the_outputs_of_the_last_one_alone(file: ModelFile) -> None:
    model = open_model(file)
    first = model.run({"x": X}, ["sum", "double"])
    model.run({"x": 10 * X}, ["sum", "double"])
    assert first["sum"].tolist() == [3, 7]
    np.testing.assert_array_equal(first["double"], 2 * X)


@pytest.fixture(params=[None, OPENVINO], ids=["onnxruntime", "openvino"])
def joined(request: pytest.FixtureRequest, tmp_path: Path) -> ModelFile:
    """A model of two inputs that depend on each other: `c` is `a` and `b`, row below row."""
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("a", ["A", "W"]), ("b", ["B", "V"]), ("c", [None, None]))
    ]
    node = helper.make_node("Concat", ["a", "b"], ["c"], axis=0)
    graph = helper.make_graph([node], "joined", tensors[:2], tensors[2:])
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    tensor = Tensor("TYPE_FP32", (-1, -1))
    return ModelFile(path, {"a": tensor, "b": tensor}, {"c": tensor}, 2, 1, request.param)


NARROW, WIDE = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)


def test_inputs_that_disagree_in_an_open_dimension_are_refused(joined: ModelFile) -> None:
    model = open_model(replace(joined, max_open_dims=(9, 9)))
    with pytest.raises(
        BadRequestError, match=r"b has shape \[2, 4\], expected 3 for the 4, as in a"
    ):
        model.run({"a": NARROW, "b": WIDE}, ["c"])
    with pytest.raises(BadRequestError, match="expected at least 1 for the 0"):
        model.run({"a": NARROW[:0], "b": NARROW[:0]}, ["c"])
    assert model.run({"a": WIDE, "b": WIDE}, ["c"])["c"].shape == (4, 4)


def test_a_failure_of_the_runtime_is_not_the_requests_fault(joined: ModelFile) -> None:
    # Without `max_open_dims` nothing says that the inputs depend on each other.
    model = open_model(joined)  # in two threads: in one, OpenVINO 2026.4 hides the failure
    with pytest.raises(Exception, match=r"(?i)concat") as caught:
        model.run({"a": NARROW, "b": WIDE}, ["c"])
    assert not isinstance(caught.value, BadRequestError)
    assert model.run({"a": WIDE, "b": WIDE}, ["c"])["c"].shape == (4, 4)


def _prompt_decoder(precision: str) -> ModelFile:
    """Return the small model's, as its config for the CPU has it."""
    config = configs.cpu_variant("prompt_decoder")
    path = small_model.FOLDER / "prompt_decoder" / "1" / "model.onnx"
    file = ModelFile.of(config, path)
    assert file.openvino is not None
    return replace(file, intra_op_threads=2, openvino={**file.openvino, "precision": precision})


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_same_prompts_give_the_same_masks_each_time(precision: str) -> None:
    file = _prompt_decoder(precision)
    model, any_shape = open_model(file), open_model(replace(file, usual_shapes=()))
    random = np.random.default_rng(0)
    for shapes in file.usual_shapes:
        inputs = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        inputs["point_coords"] = np.abs(100 * inputs["point_coords"])
        inputs["point_labels"] = np.ones_like(inputs["point_labels"])
        first = np.array(model.run(inputs, ["low_res_masks"])["low_res_masks"])
        for _ in range(5):
            again = model.run(inputs, ["low_res_masks"])["low_res_masks"]
            np.testing.assert_array_equal(again, first)
        expected = any_shape.run(inputs, ["low_res_masks"])["low_res_masks"]
        tolerance = 1e-3 if precision == "fp32" else 0.05 * np.abs(expected).max()
        np.testing.assert_allclose(first, expected, atol=tolerance)


def test_models_of_each_precision_are_kept_apart(repository: Path, tmp_path: Path) -> None:
    path = repository / "numbers" / "1" / "model.onnx"
    for precision in ("fp32", "bf16", "fp32"):
        openvino = {"precision": precision, "cache_dir": str(tmp_path)}
        open_model(ModelFile(path, INPUTS, OUTPUTS, 1, 1, openvino))
    assert {blob.parent.name: 1 for blob in tmp_path.rglob("*.blob")} == {"f32": 1, "bf16": 1}


@pytest.mark.slow
def test_models_may_be_compiled_into_one_cache_by_many_at_once(tmp_path: Path) -> None:
    file = _prompt_decoder("fp32")
    file = replace(file, openvino={**(file.openvino or {}), "cache_dir": str(tmp_path)})
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, context) as pool:
        for opened in [pool.submit(_opens, file) for _ in range(4)]:
            opened.result()
    blobs = list(tmp_path.rglob("*.blob"))
    assert len(blobs) == 1 + len(file.usual_shapes)


def _opens(file: ModelFile) -> None:
    open_model(file)


def test_an_open_dimension_beyond_its_bound_is_refused(file: ModelFile) -> None:
    model = open_model(replace(file, max_open_dims=(2, 1)))
    assert model.run({"x": X}, ["sum"])["sum"].tolist() == [3, 7]
    with pytest.raises(
        BadRequestError, match=r"x has shape \[3, 2\], expected at most 2 for the 3"
    ):
        model.run({"x": np.zeros((3, 2), np.float32)}, ["sum"])


def test_an_input_may_be_fixed_in_the_config(file: ModelFile) -> None:
    open_model(replace(file, inputs={"x": Tensor("TYPE_FP32", (3, 2))}))


def test_an_output_may_be_left_out_of_the_config(file: ModelFile) -> None:
    model = open_model(replace(file, outputs={"sum": OUTPUTS["sum"]}))
    assert model.run({"x": X}, ["sum"])["sum"].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ({"x": Tensor("TYPE_FP32", (-1, 3))}, {}, r"input x as TYPE_FP32 \[-1, 3\]"),
        ({"x": Tensor("TYPE_FP32", (-1, -1))}, {}, r"input x as TYPE_FP32 \[-1, -1\]"),
        ({"x": Tensor("TYPE_INT32", (-1, 2))}, {}, "the file has TYPE_FP32"),
        ({"y": Tensor("TYPE_FP32", (-1, 2))}, {}, r"declares the inputs \['y'\]"),
        ({}, {}, r"declares the inputs \[\]"),
        (INPUTS, {"sum": Tensor("TYPE_FP32", (3,))}, r"output sum as TYPE_FP32 \[3\]"),
        (INPUTS, {"sum": Tensor("TYPE_FP32", (-1, 1))}, r"output sum as TYPE_FP32 \[-1, 1\]"),
        (INPUTS, {"double": Tensor("TYPE_FP32", (-1, -1))}, r"has TYPE_FP32 \[-1, 2\]"),
        (INPUTS, {"sum": Tensor("TYPE_FP16", (-1,))}, "output sum as TYPE_FP16"),
        (INPUTS, {"total": Tensor("TYPE_FP32", (-1,))}, r"declares the outputs \['total'\]"),
    ],
)
def test_a_config_that_contradicts_the_file_is_refused(
    file: ModelFile, inputs: dict[str, Tensor], outputs: dict[str, Tensor], expected: str
) -> None:
    with pytest.raises(StartError, match=expected):
        open_model(replace(file, inputs=inputs, outputs=outputs))


def test_a_file_that_is_not_onnx_is_refused(file: ModelFile, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not ONNX")
    with pytest.raises(StartError, match=r"cannot load .*model\.onnx"):
        open_model(replace(file, path=path))


def test_a_file_that_is_missing_is_named(file: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"model\.onnx is missing: run hqsam export"):
        open_model(replace(file, path=tmp_path / "model.onnx"))


def test_threads_and_accelerator_are_read_from_the_config(tmp_path: Path) -> None:
    config = {
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", "2"]}],
        "output": [{"name": "sum", "data_type": "TYPE_FP32", "dims": ["-1"]}],
        "parameters": {
            "intra_op_thread_count": {"string_value": "3"},
            "inter_op_thread_count": {"string_value": "2"},
        },
        "optimization": {
            "execution_accelerators": {
                "cpu_execution_accelerator": [{"name": "openvino", "parameters": OPENVINO}]
            }
        },
    }
    file = ModelFile.of(config, tmp_path)
    assert file == ModelFile(tmp_path, INPUTS, {"sum": OUTPUTS["sum"]}, 3, 2, OPENVINO)
    assert ModelFile.of(config | {"optimization": {}, "parameters": {}}, tmp_path) == replace(
        file, intra_op_threads=0, inter_op_threads=0, openvino=None
    )


def test_triton_answers_only_the_outputs_asked_for(shared: TritonServer) -> None:
    assert infer(shared.grpc_url, "numbers", "x", X, "sum").keys() == {"sum"}
    assert infer(shared.grpc_url, "numbers", "x", X).keys() == {"sum", "double"}


@pytest.mark.parametrize(
    "x", [np.zeros((2, 3), np.float32), np.zeros(2, np.float32), np.zeros((2, 2), np.float64)]
)
def test_a_bad_request_is_an_invalid_argument_and_its_neighbours_are_answered(
    shared: TritonServer, x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(shared.grpc_url, "numbers", "x", x)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    works(shared.grpc_url, "numbers")


def test_threads_of_serve_reach_the_model(shared: TritonServer) -> None:
    with triton.InferenceServerClient(shared.grpc_url) as client:
        config = client.get_model_config("numbers", client_timeout=TIMEOUT_S).config
    assert int(config.parameters["intra_op_thread_count"].string_value) >= 1
