from __future__ import annotations

from typing import Any

import pytest
from hqsam_client import contract
from hqsam_client.contract import ModelSpec, TensorSpec
from hqsam_server.models import settings
from hqsam_server.models.preprocess import Limits
from hqsam_server.models.prompt_checks import PromptLimits
from hqsam_testing import configs
from tritonclient.grpc import model_config_pb2

_PYTHON_MODELS = ["preprocess", "embed", "segment"]


def _spec(tensor: Any) -> TensorSpec:
    dtype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    optional = getattr(tensor, "optional", False)  # outputs have no such field
    return TensorSpec(
        tensor.name, "BYTES" if dtype == "STRING" else dtype, tuple(tensor.dims), optional
    )


@pytest.mark.parametrize("model", contract.MODELS, ids=lambda model: model.name)
def test_a_config_states_the_contract(model: ModelSpec) -> None:
    config = configs.read(model.name)
    assert config.name == model.name
    assert config.max_batch_size == 0
    assert tuple(map(_spec, config.input)) == model.inputs
    assert tuple(map(_spec, config.output)) == model.outputs


def test_the_repository_holds_the_contracts_models_and_no_others() -> None:
    folders = {path.parent.name for path in configs.REPOSITORY.glob("*/config.pbtxt")}
    assert folders == {model.name for model in contract.MODELS}


@pytest.mark.parametrize("name", ["encode", "hq_sam"])
def test_an_ensemble_feeds_every_step_with_all_that_it_needs(name: str) -> None:
    models = {model.name: model for model in contract.MODELS}
    known = {spec.name: spec for spec in models[name].inputs}
    for step in configs.read(name).ensemble_scheduling.step:
        model = models[step.model_name]
        assert set(step.input_map) == {spec.name for spec in model.inputs}
        for spec in model.inputs:
            fed = known[step.input_map[spec.name]]
            assert (fed.dtype, fed.shape) == (spec.dtype, spec.shape)
        outputs = {spec.name: spec for spec in model.outputs}
        known |= {step.output_map[inner]: outputs[inner] for inner in step.output_map}
    assert {spec.name for spec in models[name].outputs} <= set(known)


@pytest.mark.parametrize("name", ["encode", "hq_sam"])
def test_an_ensemble_has_the_version_folder_that_triton_wants(name: str) -> None:
    assert (configs.REPOSITORY / name / "1" / ".gitkeep").is_file()


@pytest.mark.parametrize("name", _PYTHON_MODELS)
def test_a_full_queue_is_refused_and_requests_are_not_batched(name: str) -> None:
    batching = configs.read(name).dynamic_batching
    assert batching.default_queue_policy.max_queue_size > 0
    assert batching.max_queue_delay_microseconds == 0


def test_models_that_share_an_option_agree_on_its_default() -> None:
    defaults: dict[str, str] = {}
    for name in _PYTHON_MODELS:
        for option, default in configs.parameters(name).items():
            assert defaults.setdefault(option, default) == default, option


def test_the_limits_in_the_configs_are_the_documented_ones() -> None:
    for name in ("preprocess", "embed"):
        assert settings.limits(configs.parameters(name)) == Limits()
    assert settings.prompt_limits(configs.parameters("segment")) == PromptLimits()
