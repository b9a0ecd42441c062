"""The image encoder of Light HQ-SAM, in PyTorch."""

from __future__ import annotations

import pytest
import torch
from hqsam_cli.main import main
from hqsam_export import checkpoint, exporter
from hqsam_export.errors import CheckpointError
from hqsam_export.graphs.encoder import encoder_graph
from hqsam_export.graphs.tiny_vit import folded
from hqsam_export.modeling import HQSamModel
from hqsam_export.modeling.tiny_vit import ConvNorm, bias_columns
from hqsam_testing import rebuilt
from hqsam_testing.oracle import weights


@pytest.fixture(scope="module")
def light() -> HQSamModel:
    return checkpoint.build_model(rebuilt.state_dict(rebuilt.LIGHT))


def test_the_checkpoints_unused_classifier_is_left_out(light: HQSamModel) -> None:
    arrays = weights.state_dict(keys=weights.LIGHT_KEYS)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    assert tensors.keys() - light.state_dict().keys() == set(checkpoint.UNUSED)
    built = checkpoint.build_model(tensors).state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in light.state_dict().items())


def test_an_image_of_any_side_that_16_divides_is_encoded(light: HQSamModel) -> None:
    with torch.no_grad():
        embeddings, interm = light.image_encoder(torch.randn(2, 3, 144, 144))
    assert embeddings.shape == (2, 256, 9, 9)
    assert interm.shape == (1, 2, 9, 9, 160)


def test_batch_and_single_image_agree(light: HQSamModel) -> None:
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        together = light.image_encoder(images)[0]
        alone = torch.cat([light.image_encoder(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_bias_belongs_to_a_distance_in_rows_and_columns() -> None:
    columns = bias_columns(3, torch.device("cpu"))
    assert columns[0].tolist() == list(range(9))
    assert columns[8, 0] == 2 * 3 + 2
    assert torch.equal(columns, columns.T)


def test_attention_biases_count_only_where_they_are_asked_for() -> None:
    tensors = rebuilt.state_dict(rebuilt.LIGHT)
    image = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        found = [
            checkpoint.build_model(tensors, attention_biases=biases).image_encoder(image)[0]
            for biases in (False, True)
        ]
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("biases", [False, True])
def test_the_exported_graph_computes_what_the_encoder_does(biases: bool) -> None:
    model = checkpoint.build_model(rebuilt.state_dict(rebuilt.LIGHT), biases)
    image = torch.randn(1, 3, 144, 144)
    with torch.no_grad():
        expected = model.image_encoder(image)
        found = encoder_graph(model)(image)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_batch_norm_folds_into_its_convolution() -> None:
    layer = ConvNorm(4, 6, kernel=3, stride=2)
    layer(torch.randn(8, 4, 9, 9))  # statistics that are not zeros and ones
    layer.eval()
    x = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(folded(layer)(x), layer(x))


def test_missing_and_unexpected_tensors_are_named() -> None:
    tensors = rebuilt.state_dict(rebuilt.LIGHT)
    tensors["image_encoder.extra"] = torch.zeros(1)
    del tensors["image_encoder.layers.2.blocks.3.attn.attention_biases"]
    with pytest.raises(CheckpointError) as caught:
        checkpoint.build_model(tensors)
    assert "image_encoder.extra is unexpected" in str(caught.value)
    assert "layers.2.blocks.3.attn.attention_biases is missing" in str(caught.value)


def test_the_encoder_trains_in_bfloat16() -> None:
    model = HQSamModel(rebuilt.LIGHT).train()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings, interm = model.image_encoder(torch.randn(2, 3, 64, 64))
        (embeddings.float().square().mean() + interm.float().square().mean()).backward()
    missing = [name for name, it in model.image_encoder.named_parameters() if it.grad is None]
    assert not missing


@pytest.mark.parametrize("option", [[], ["--attention-biases"]])
def test_the_export_says_that_biases_are_left_out(
    light: HQSamModel,
    option: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = {"model": "Light", "fingerprint": "1234"}
    monkeypatch.setattr(checkpoint, "load_model", lambda *_: light)
    monkeypatch.setattr(exporter, "export", lambda *_args, **_options: manifest)
    assert main(["export", "--checkpoint=light.pth", *option]) == 0
    assert ("--attention-biases" in capsys.readouterr().err) is not bool(option)
