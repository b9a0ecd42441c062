"""Models saved by `transformers` load, and give what `transformers` gives.

With one exception: its mask decoder (5.23) drops the image tokens that its two-way
transformer returns, and makes masks from the ones that went in, transposed. The official
implementation uses those that come out. The tests put that right before they compare.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from hqsam_export import checkpoint
from hqsam_export.modeling import HQSamModel
from hqsam_testing.rebuilt import TINY, TINY_VIT
from torch import Tensor, nn

from tests.export import prompts

TOLERANCE = 5e-4
"""Largest difference, as a share of the largest magnitude.

`transformers` adds 1e-6 to the variance in the decoder's norms, the official code 1e-5.
"""


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert difference <= TOLERANCE


@pytest.fixture(scope="module")
def theirs() -> transformers.SamHQModel:
    torch.manual_seed(0)
    vision = transformers.SamHQVisionConfig(
        hidden_size=TINY_VIT.width,
        num_hidden_layers=TINY_VIT.depth,
        num_attention_heads=TINY_VIT.heads,
        global_attn_indexes=list(TINY_VIT.global_blocks),
    )
    decoder = transformers.SamHQMaskDecoderConfig(vit_dim=TINY_VIT.width)
    config = transformers.SamHQConfig(vision_config=vision, mask_decoder_config=decoder)
    model: transformers.SamHQModel = transformers.SamHQModel(config)
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh ones are constants or near zero, which would hide names mixed up.
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)
    use_the_image_tokens_that_come_out(model.mask_decoder)
    return model


def use_the_image_tokens_that_come_out(mask_decoder: nn.Module) -> None:
    tokens: list[Tensor] = []
    mask_decoder.get_submodule("transformer").register_forward_hook(
        lambda _module, _inputs, outputs: tokens.append(outputs[1])
    )
    mask_decoder.get_submodule("upscale_conv1").register_forward_pre_hook(
        lambda _module, inputs: tokens.pop().transpose(2, 3).reshape(inputs[0].shape)
    )


@pytest.fixture(scope="module")
def ours(theirs: transformers.SamHQModel, tmp_path_factory: pytest.TempPathFactory) -> HQSamModel:
    folder = tmp_path_factory.mktemp("transformers") / "model"
    theirs.save_pretrained(folder)
    return checkpoint.load_model(folder)


def test_the_architecture_is_recognised(ours: HQSamModel) -> None:
    assert ours.architecture == TINY


def test_a_single_safetensors_file_loads_as_its_folder_does(
    theirs: transformers.SamHQModel, ours: HQSamModel, tmp_path: Path
) -> None:
    theirs.save_pretrained(tmp_path)
    loaded = checkpoint.load_model(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in ours.state_dict().items())


def test_a_model_in_several_files_loads_as_in_one(
    theirs: transformers.SamHQModel, ours: HQSamModel, tmp_path: Path
) -> None:
    theirs.save_pretrained(tmp_path, max_shard_size="4MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = checkpoint.load_model(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in ours.state_dict().items())


@torch.no_grad()
def test_embeddings_are_those_of_transformers(
    theirs: transformers.SamHQModel, ours: HQSamModel
) -> None:
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    expected = theirs.vision_encoder(image)
    embeddings, interm = ours.image_encoder(image)
    assert_close(embeddings, expected.last_hidden_state)
    assert_close(interm[0], expected.intermediate_embeddings[0])


@pytest.mark.parametrize("masked", [False, True], ids=["no_mask", "mask"])
@torch.no_grad()
def test_masks_are_those_of_transformers(
    theirs: transformers.SamHQModel, ours: HQSamModel, masked: bool
) -> None:
    image = {name: torch.from_numpy(a) for name, a in prompts.image(TINY_VIT.width).items()}
    interm = image["interm_embeddings"][:1]
    points, labels = torch.tensor([[400.0, 500.0], [100.5, 800.0]]), torch.tensor([1, 0])
    mask = 4 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    expected = theirs(
        image_embeddings=image["image_embeddings"],
        intermediate_embeddings=list(interm),
        input_points=points[None, None],
        input_labels=labels[None, None],
        input_masks=mask if masked else None,
        multimask_output=False,
        hq_token_only=True,
    )
    prompt = prompts.batch(
        [([(400.0, 500.0), (100.5, 800.0), (0.0, 0.0)], [1, 0, -1])],
        mask.numpy() if masked else None,
    )
    features = ours.mask_decoder.hq_features(image["image_embeddings"], interm)
    masks, _, iou = ours.decode(
        image["image_embeddings"], features, *map(torch.from_numpy, prompt.values())
    )
    assert_close(masks, expected.pred_masks[:, 0])
    assert_close(iou[:, :1], expected.iou_scores[:, 0])
