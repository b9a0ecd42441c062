from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import text_format
from hqsam_client import contract
from hqsam_client.contract import TensorSpec
from hqsam_server.models import settings
from hqsam_server.models.preprocess import Limits
from hqsam_server.models.prompt_checks import PromptLimits
from hqsam_testing import configs
from tritonclient.grpc import model_config_pb2

MODELS = {model.name: model for model in contract.MODELS}
_PYTHON_MODELS = ["preprocess", "embed", "segment"]


CONFIGS = sorted(
    str(path.relative_to(configs.REPOSITORY)) for path in configs.REPOSITORY.rglob("*.pbtxt")
)


def _spec(tensor: Any) -> TensorSpec:
    optional = getattr(tensor, "optional", False)  # outputs have no such field
    return TensorSpec(tensor.name, _dtype(tensor.data_type), tuple(tensor.dims), optional)


def _dtype(data_type: int) -> str:
    name: str = model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _read(path: str) -> Any:
    text = (configs.REPOSITORY / path).read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_and_each_variant_state_the_contract(path: str) -> None:
    config = _read(path)
    model = MODELS[path.split("/")[0]]
    assert config.name == model.name
    assert config.max_batch_size == 0
    assert tuple(map(_spec, config.input)) == model.inputs
    # A config cannot say that an output is made on request.
    outputs = tuple(replace(spec, on_request=False) for spec in model.outputs)
    assert tuple(map(_spec, config.output)) == outputs


@pytest.mark.parametrize("variant", ["cuda", "tensorrt"])
def test_on_a_gpu_segment_differs_in_where_it_decodes_and_keeps_images(variant: str) -> None:
    config, on_gpu = _read("segment/config.pbtxt"), _read(f"segment/configs/{variant}.pbtxt")
    [group] = on_gpu.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (1, "KIND_GPU")
    assert int(on_gpu.parameters["resident_bytes"].string_value) > 0
    for one in (config, on_gpu):
        one.ClearField("instance_group")
        del one.parameters["resident_bytes"]
    assert on_gpu == config


@pytest.mark.parametrize("path", CONFIGS)
def test_warm_up_samples_fit_the_inputs(path: str) -> None:
    config = _read(path)
    inputs = {spec.name: spec for spec in MODELS[config.name].inputs}
    for sample in config.model_warmup:
        assert sample.inputs.keys() == inputs.keys()
        for name, tensor in sample.inputs.items():
            assert _dtype(tensor.data_type) == inputs[name].dtype
            for side, declared in zip(tensor.dims, inputs[name].shape, strict=True):
                assert declared in (-1, side)


ON_GPU = [path for path in CONFIGS if path.endswith(("cuda.pbtxt", "tensorrt.pbtxt"))]


@pytest.mark.parametrize("path", [it for it in ON_GPU if not it.startswith("segment/")])
def test_on_a_gpu_nothing_is_searched_or_loaded_in_the_first_call(path: str) -> None:
    config = _read(path)
    # Triton's backend reads it among the model's parameters, and else sets EXHAUSTIVE, whatever the
    # accelerator says.
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1"
    assert config.model_warmup


def test_the_engine_and_the_timing_of_tensorrt_are_kept_in_one_folder() -> None:
    config = _read("encoder/configs/tensorrt.pbtxt")
    [tensorrt] = config.optimization.execution_accelerators.gpu_execution_accelerator
    for cache in ("engine", "timing"):
        assert tensorrt.parameters[f"trt_{cache}_cache_enable"] == "true"
        assert tensorrt.parameters[f"trt_{cache}_cache_path"] == "/var/cache/tensorrt"


def test_the_repository_holds_the_contracts_models_and_no_others() -> None:
    folders = {path.parent.name for path in configs.REPOSITORY.glob("*/config.pbtxt")}
    assert folders == {model.name for model in contract.MODELS}


@pytest.mark.parametrize("name", ["encode", "hq_sam"])
def test_an_ensemble_feeds_all_inputs_of_every_step(name: str) -> None:
    known = {spec.name: spec for spec in MODELS[name].inputs}
    for step in configs.read(name).ensemble_scheduling.step:
        model = MODELS[step.model_name]
        assert set(step.input_map) == {spec.name for spec in model.inputs}
        for spec in model.inputs:
            fed = known[step.input_map[spec.name]]
            assert (fed.dtype, fed.shape) == (spec.dtype, spec.shape)
        outputs = {spec.name: spec for spec in model.outputs}
        known |= {step.output_map[inner]: outputs[inner] for inner in step.output_map}
    assert {spec.name for spec in MODELS[name].outputs} <= set(known)


@pytest.mark.parametrize("name", ["encode", "hq_sam"])
def test_an_ensemble_has_the_version_folder_that_triton_wants(name: str) -> None:
    assert (configs.REPOSITORY / name / "1" / ".gitkeep").is_file()


@pytest.mark.parametrize("path", CONFIGS)
def test_no_model_has_tritons_batcher(path: str) -> None:
    """It loses wake-ups: of a few requests at once, some wait half a second for nothing."""
    assert not _read(path).HasField("dynamic_batching")


def test_models_that_share_an_option_agree_on_its_default() -> None:
    defaults: dict[str, str] = {}
    for name in _PYTHON_MODELS:
        for option, default in configs.parameters(name).items():
            assert defaults.setdefault(option, default) == default, option


def test_the_limits_in_the_configs_are_the_documented_ones() -> None:
    for name in ("preprocess", "embed"):
        assert settings.limits(configs.parameters(name)) == Limits()
    assert settings.segment_limits(configs.parameters("segment")).prompts == PromptLimits()
