"""Scenes and samples are valid, and training resumes where it was stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hqsam_client import contract
from hqsam_export import checkpoint
from hqsam_export.modeling.transformer import TwoWayBlock

from training import initial, losses, scenes, train
from training.samples import LOW_RES, PATCH, STAGES, Batches


def test_a_scene_is_the_same_for_the_same_seed_and_its_objects_share_no_pixel() -> None:
    first, again, other = (scenes.draw(seed, 300, 200) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (200, 300, 3)
    assert first.masks.shape[1:] == (200, 300)
    assert first.masks.sum(axis=0).max() == 1
    assert first.masks.sum(axis=(1, 2)).min() >= 400


@pytest.mark.parametrize("step", [0, 80, 99])
def test_clicks_lie_on_their_objects_and_negative_ones_do_not(step: int) -> None:
    stage = next(stage for stage in STAGES if step < 100 * stage.until)
    batch = Batches(steps=100, seed=3)[step]
    side = 4 * stage.side
    assert batch.images.shape == (stage.images, 3, 4 * side, 4 * side)
    assert batch.masks.shape == (stage.images * stage.prompts, 1, side, side)
    assert batch.corners.min() >= 0
    assert batch.corners.max() <= contract.EMBEDDING_SIZE - stage.side
    if step == 0:
        assert {contract.LABEL_FOREGROUND, contract.LABEL_BACKGROUND} <= set(
            batch.point_labels.flatten().tolist()
        )
    corners = (PATCH * batch.corners.flip(1)).repeat_interleave(stage.prompts, dim=0)  # x, y
    for corner, points, labels, (mask,) in zip(
        corners, batch.point_coords, batch.point_labels, batch.masks, strict=True
    ):
        assert mask.max() > 0
        assert (labels != contract.LABEL_PADDING).any()
        for point, label in zip(points, labels, strict=True):
            x, y = ((point - corner) / LOW_RES).int().clamp(0, side - 1).tolist()
            if label == contract.LABEL_FOREGROUND:
                assert mask[y, x] > 0
            elif label == contract.LABEL_BACKGROUND:
                assert mask[y, x] < 1


def test_a_correction_is_at_the_centre_of_the_pixel_that_is_wrong() -> None:
    masks = torch.zeros(2, 1, 56, 56)
    masks[0, 0, 20, 10] = 1  # missing in the mask of the first prompt; the second is right
    corners = torch.tensor([[2, 3], [2, 3]])  # row, column
    coords, labels = losses.corrections(torch.full_like(masks, -1.0), masks, corners)
    # Low-resolution column 10 is made of the input frame's columns 40 to 43.
    assert coords[0, 0].tolist() == [41.5 + 3 * PATCH, 81.5 + 2 * PATCH]
    assert labels[:, 0].tolist() == [contract.LABEL_FOREGROUND, contract.LABEL_PADDING]


def test_an_initial_model_attends_to_the_position_of_a_click() -> None:
    torch.manual_seed(0)
    model = initial.new_model(train.SMALL)
    block = cast(TwoWayBlock, model.mask_decoder.transformer.layers[0])
    attention = block.cross_attn_token_to_image
    grid = model.prompt_encoder.grid_encoding()  # [1, 4096, 256]
    clicks = torch.tensor([[[100.0, 900.0], [511.0, 40.0]]])
    queries, _ = model.prompt_encoder.embed_points(clicks, torch.ones(1, 2))
    likeness = attention.q_proj(queries[:, :2]) @ attention.k_proj(grid).transpose(1, 2)
    side = contract.EMBEDDING_SIZE
    places = [divmod(int(place), side) for place in likeness[0].argmax(dim=1)]
    assert places == [(900 // PATCH, 100 // PATCH), (40 // PATCH, 511 // PATCH)]


def test_the_initial_filters_are_orthogonal() -> None:
    filters = initial.cosine_filters(160).flatten(1)
    products = filters @ filters.T
    assert (products - products.diag().diag()).abs().max() < 1e-5
    assert products.diag().min() > 0


@pytest.mark.slow
def test_training_resumes_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(steps: int) -> dict[str, torch.Tensor]:
        flags = f"--output={tmp_path} --steps={steps} --workers=0 --device=cpu"
        monkeypatch.setattr(sys, "argv", ["train", *flags.split()])
        train.main()
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == steps
        weights: dict[str, torch.Tensor] = torch.load(tmp_path / "small.pth", weights_only=True)
        return weights

    first, second = run(1), run(2)
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in second.values())
    # `hqsam export` reads the file.
    assert checkpoint.load_model(tmp_path / "small.pth").architecture == train.SMALL
