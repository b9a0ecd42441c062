"""Scenes and samples are what they say, and training goes on where it was stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hqsam_client import contract
from hqsam_export import checkpoint

from training import scenes, train
from training.samples import LOW_RES, PATCH, Samples


def test_a_scene_is_the_same_for_the_same_seed_and_its_objects_share_no_pixel() -> None:
    first, again, other = (scenes.draw(seed, 300, 200) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (200, 300, 3)
    assert first.masks.shape[1:] == (200, 300)
    assert first.masks.sum(axis=0).max() == 1
    assert first.masks.sum(axis=(1, 2)).min() >= 400


@pytest.mark.parametrize("number", range(6))
def test_clicks_lie_on_their_objects_and_negative_ones_do_not(number: int) -> None:
    sample = Samples(steps=6, prompts=8, seed=3)[number]
    side = sample.masks.shape[-1]
    assert sample.image.shape == (1, 3, 4 * side, 4 * side)
    assert 0 <= sample.top <= contract.EMBEDDING_SIZE - side // 4
    corner = torch.tensor([sample.left * PATCH, sample.top * PATCH])
    for points, labels, (mask,) in zip(
        sample.point_coords, sample.point_labels, sample.masks, strict=True
    ):
        assert mask.max() > 0
        assert (labels != contract.LABEL_PADDING).any()
        for point, label in zip(points, labels, strict=True):
            x, y = ((point - corner) / LOW_RES).int().clamp(0, side - 1).tolist()
            if label == contract.LABEL_FOREGROUND:
                assert mask[y, x] > 0
            elif label == contract.LABEL_BACKGROUND:
                assert mask[y, x] < 1


def test_training_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(steps: int) -> dict[str, torch.Tensor]:
        flags = f"--output={tmp_path} --steps={steps} --prompts=2 --workers=0 --device=cpu"
        monkeypatch.setattr(sys, "argv", ["train", *flags.split()])
        train.main()
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == steps
        weights: dict[str, torch.Tensor] = torch.load(tmp_path / "small.pth", weights_only=True)
        return weights

    first, second = run(1), run(2)
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in second.values())
    # The file is a checkpoint as `hqsam export` takes it.
    assert checkpoint.load_model(tmp_path / "small.pth").architecture == train.SMALL
