"""Losses, and the clicks that correct a mask, on low-resolution logits."""

from __future__ import annotations

import numpy as np
import torch
from hqsam_client import contract
from torch import Tensor
from torch.nn import functional

from training.samples import LOW_RES, PATCH, centre


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return half-balanced cross-entropy plus Dice of each mask.

    A pixel of the object weighs one over the square root of the object's area, a pixel of the
    surroundings one over the square root of theirs. With equal weights, an empty mask is a good
    answer for a small object, and training stays there. With weights of one over the area,
    masks come out too large: the best threshold would be a logit of 0.5 instead of 0.

    Args:
        logits: [P, K, H, W].
        masks: [P, 1, H, W], covered fractions.

    Returns:
        [P, K].
    """
    inside = masks.mean((2, 3), keepdim=True).clamp(1e-4, 1 - 1e-4)  # [P, 1, 1, 1]
    weights = masks / inside.sqrt() + (1 - masks) / (1 - inside).sqrt()
    weights = weights / weights.sum((2, 3), keepdim=True)
    masks, weights = masks.expand_as(logits), weights.expand_as(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    covered = logits.sigmoid()
    overlap = 2 * (covered * masks).sum((2, 3)) + 1
    dice = 1 - overlap / (covered.sum((2, 3)) + masks.sum((2, 3)) + 1)
    return (weights * entropy).sum((2, 3)) + dice


def similarity_loss(embeddings: Tensor, masks: Tensor, anchors: Tensor) -> Tensor:
    """Return how badly an object's tokens differ in direction from all others.

    Directions are relative to the image's mean, because all tokens share it.

    Args:
        embeddings: [B, C, S, S], the output of the neck.
        masks: [B * P, 1, 4 * S, 4 * S], covered fractions.
        anchors: [B * P, 2], (row, column) of a token of each object.

    Returns:
        A scalar.
    """
    embeddings = embeddings.float()
    deviations = embeddings - embeddings.mean(dim=(2, 3), keepdim=True)
    directions = functional.normalize(deviations, dim=1)
    directions = directions.repeat_interleave(len(masks) // len(directions), dim=0)
    own = directions[torch.arange(len(masks)), :, anchors[:, 0], anchors[:, 1]]  # [B * P, C]
    likeness = torch.einsum("pc,pchw->phw", own, directions)[:, None]  # [B * P, 1, S, S]
    tokens = functional.avg_pool2d(masks, masks.shape[-1] // embeddings.shape[-1])
    return mask_loss(10 * (likeness - 0.5), tokens).mean()


def iou(logits: Tensor, masks: Tensor) -> Tensor:
    """Return intersection over union [P, K] of logits [P, K, H, W] above 0 and masks."""
    predicted, wanted = logits > 0, masks > 0.5
    overlap = (predicted & wanted).sum((2, 3))
    return overlap / (predicted | wanted).sum((2, 3)).clamp_min(1)


def corrections(logits: Tensor, masks: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the click with which a user would correct each mask.

    It is at the centre of the largest error, as in the protocol of interactive segmentation.

    Args:
        logits: [P, 1, H, W].
        masks: [P, 1, H, W], covered fractions.
        corners: [P, 2], first row and column of each square in the input frame, in tokens.

    Returns:
        Coordinates [P, 1, 2] in pixels of the input frame, and labels [P, 1]. A mask without
        an error gets padding.
    """
    predicted, wanted = (logits[:, 0] > 0).cpu().numpy(), (masks[:, 0] > 0.5).cpu().numpy()
    coords = np.zeros((len(predicted), 1, 2), np.float32)
    labels = np.full((len(predicted), 1), contract.LABEL_PADDING, np.float32)
    for row, (got, meant) in enumerate(zip(predicted, wanted, strict=True)):
        missing, extra = meant & ~got, got & ~meant
        error = missing if missing.sum() >= extra.sum() else extra
        if not error.any():
            continue
        top, left = (PATCH * corners[row]).tolist()
        x, y = centre(error)
        # The centre of a low-resolution pixel: a coordinate is 0 at the first pixel's centre.
        middle = (LOW_RES - 1) / 2
        coords[row, 0] = (x * LOW_RES + middle + left, y * LOW_RES + middle + top)
        labels[row, 0] = (
            contract.LABEL_FOREGROUND if error is missing else contract.LABEL_BACKGROUND
        )
    return torch.from_numpy(coords).to(logits.device), torch.from_numpy(labels).to(logits.device)
