"""Samples of the next small model's training are valid, and it begins where it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hqsam_client import contract
from hqsam_export.modeling import HQSamModel
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training.light import collages, initial, prompts
from training.light.material import Material
from training.samples import LOW_RES


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A red disc with a hole, a grey photograph, and one of a blue square."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("cutouts", "photos", "masked"):
        (folder / name).mkdir()
    y, x = np.mgrid[:200, :200]
    radius = np.hypot(x - 100, y - 100)
    ring = np.zeros((200, 200, 4), np.uint8)
    ring[(radius < 95) & (radius > 40)] = (200, 30, 30, 255)
    Image.fromarray(ring).save(folder / "cutouts" / "photo-ring.webp", lossless=True)
    Image.new("RGB", (320, 240), (90, 90, 90)).save(folder / "photos" / "grey.jpg")
    square = Image.new("RGB", (320, 240), (90, 90, 90))
    square.paste((20, 20, 200), (40, 60, 140, 160))
    square.save(folder / "masked" / "square.jpg")
    mask = Image.new("1", (320, 240))
    mask.paste(1, (40, 60, 140, 160))
    mask.save(folder / "masked" / "square-1.png")
    return Material.read(folder, "cpu")


def test_material_has_alpha_and_masks(material: Material) -> None:
    (ring,) = material.cutouts[0]  # [4, 384, 384]
    assert ring[3, 192, 192] == 0
    assert ring[:, 192, 60].tolist() == [200, 30, 30, 255]
    assert [level.shape[-1] for level in material.cutouts] == [384, 192, 96, 48]
    ((photo, masks),) = material.masked
    assert photo.shape == (3, 240, 320)
    assert masks.sum() == 100 * 100


def test_a_collage_shows_its_objects_where_its_labels_say(material: Material) -> None:
    for seed in range(2):
        image, labels = collages.draw(material, np.random.default_rng(seed))
        assert image.shape == (3, 1024, 1024)
        beyond = image[0] == collages.PADDING
        assert not labels[beyond].any()
        inside = image[:, ~beyond]
        assert inside.min() >= 0
        assert inside.max() <= 1
        objects = image[:, labels > 0]  # red
        assert objects[0].mean() > objects[1:].mean() + 0.1


@pytest.fixture
def masks() -> Tensor:
    """A square, a line and a single pixel: bool [3, 256, 256]."""
    masks = torch.zeros(3, 256, 256, dtype=torch.bool)
    masks[0, 100:150, 30:80] = True
    masks[1, 12, :] = True
    masks[2, 7, 5] = True
    return masks


def place(point: Tensor) -> tuple[int, int]:
    """Return row and column of the low-resolution pixel under a point."""
    x, y = (point / LOW_RES).int().tolist()
    return y, x


def test_first_prompts_point_at_their_objects(masks: Tensor) -> None:
    torch.manual_seed(0)
    masks = masks[:, ::4, ::4]
    masks[2, 7, 5] = True
    seen: set[float] = set()
    for _ in range(25):
        coords, labels = prompts.first(masks)
        for mask, points, kinds in zip(masks, coords, labels, strict=True):
            assert (kinds != contract.LABEL_PADDING).any()
            for point, kind in zip(points, kinds.tolist(), strict=True):
                seen.add(kind)
                if kind == contract.LABEL_FOREGROUND:
                    assert mask[place(point)]
                elif kind == contract.LABEL_BACKGROUND:
                    assert not mask[place(point)]
    assert seen == {-1.0, 0.0, 1.0, 2.0, 3.0}


def test_the_deepest_click_is_amid_the_object_and_a_box_holds_its_pixels(masks: Tensor) -> None:
    row, column = place(prompts.click(masks, torch.ones(3))[0])
    assert abs(row - 125) <= 4
    assert abs(column - 55) <= 4
    assert prompts.box(masks)[0].tolist() == [[120, 400], [319, 599]]
    assert prompts.box(masks)[2].tolist() == [[20, 28], [23, 31]]


def test_a_correction_is_within_the_error_and_padding_without_one(masks: Tensor) -> None:
    logits = torch.where(masks, 1.0, -1.0)
    logits[0, 100:150, 30:60] = -1.0  # missing
    logits[1, 100:120, 100:120] = 1.0  # too much
    coords, labels = prompts.corrections(logits, masks)
    assert labels[:, 0].tolist() == [1, 0, -1]
    row, column = place(coords[0, 0])
    assert 100 <= row < 150
    assert 30 <= column < 60
    row, column = place(coords[1, 0])
    assert 100 <= row < 120
    assert 100 <= column < 120
    coords, labels = prompts.with_clicks(
        torch.zeros(3, 2, 2), torch.tensor([[1.0, -1.0]] * 3), coords, labels
    )
    assert labels.tolist() == [[1, 1, -1], [1, 0, -1], [1, -1, -1]]


def test_the_model_begins_with_what_was_trained_on_single_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = dict(HQSamModel(initial.LIGHT).state_dict())
    start = {
        name: tensor[..., :1, :1].clone() if "patch_embed" in name and tensor.dim() == 4 else tensor
        for name, tensor in random.items()
        if not any(part in name for part in ("hf_", "compress_vit", "embedding_"))
    }
    torch.save(start, tmp_path / "start.pth")
    model = initial.new_model(tmp_path / "start.pth").eval()
    patches = model.image_encoder.patch_embed
    small = torch.randn(1, 3, 16, 16)
    large = functional.interpolate(small, scale_factor=4.0)  # [1, 3, 64, 64]
    first = start["image_encoder.patch_embed.seq.0.c.weight"]
    second = start["image_encoder.patch_embed.seq.2.c.weight"]
    scale = (1 + 1e-5) ** 0.5  # of batch normalisation that has seen nothing
    expected = (
        functional.conv2d(functional.gelu(functional.conv2d(small, first) / scale), second) / scale
    )
    assert torch.allclose(patches(large), expected, atol=1e-5)
    assert torch.equal(
        model.mask_decoder.hf_token.weight, start["mask_decoder.mask_tokens.weight"][:1]
    )
