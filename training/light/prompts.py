"""Prompts that a user would give for an object, computed for many objects at once on any device.

All masks are low-resolution masks: a pixel stands for 4 x 4 pixels of the input frame.
"""

from __future__ import annotations

import torch
from hqsam_client import contract
from torch import Tensor
from torch.nn import functional

from training.samples import LOW_RES

_DEPTHS = (1, 1, 2, 2, 4, 4, 8, 8, 16, 16)

KINDS = {
    "click": 0.4,
    "box": 0.4,
    "box and click": 0.05,
    "click and negative": 0.08,
    "clicks": 0.07,
}
"""First prompts, and how often each is given."""


def depth(masks: Tensor) -> Tensor:
    """Return about how far each pixel of an object is from its outside, in pixels.

    Args:
        masks: bool [P, H, W]; beyond the image is outside.

    Returns:
        float [P, H, W], 0 outside. Distances are those of a chessboard, in coarser steps inside.
    """
    left = masks[:, None].float()
    total = left.clone()
    for step in _DEPTHS:
        # A square is a row of columns.
        outside = functional.pad(1 - left, (step, step, step, step), value=1.0)
        outside = functional.max_pool2d(outside, (2 * step + 1, 1), stride=1)
        left = 1 - functional.max_pool2d(outside, (1, 2 * step + 1), stride=1)
        total = total + step * left
    return total[:, 0]


def click(masks: Tensor, least: Tensor) -> Tensor:
    """Return a random pixel of each object, at least so deep inside.

    Args:
        masks: bool [P, H, W].
        least: [P], from 0 (anywhere in the object) to 1 (at its deepest place), of the depth of its
            deepest place.

    Returns:
        float [P, 2], (x, y) in pixels of the input frame, at the centre of a low-resolution pixel.
        It means nothing for an object without pixels.
    """
    depths = depth(masks)
    allowed = (depths >= least[:, None, None] * depths.amax((1, 2), keepdim=True)) & masks
    chance = torch.rand_like(depths) * allowed
    index = chance.flatten(1).argmax(dim=1)
    width = masks.shape[-1]
    places = torch.stack([index % width, index // width], dim=1)
    return places * LOW_RES + (LOW_RES - 1) / 2


def box(masks: Tensor) -> Tensor:
    """Return the box of each object: float [P, 2, 2], two corners (x, y) in the input frame.

    Args:
        masks: bool [P, H, W], each with a pixel.
    """
    corners = []
    for sides in (masks.any(dim=1), masks.any(dim=2)):  # columns, then rows: [P, S]
        first = sides.int().argmax(dim=1)
        last = sides.shape[1] - 1 - sides.flip(1).int().argmax(dim=1)
        corners.append(torch.stack([first * LOW_RES, last * LOW_RES + LOW_RES - 1], dim=1))
    return torch.stack(corners, dim=2).float()  # [P, corner, xy]


def first(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return random first prompts.

    Args:
        masks: bool [P, 256, 256], each with a pixel.

    Returns:
        coordinates [P, 3, 2] in the input frame, and labels [P, 3], the contract's codes.
    """
    count, device = len(masks), masks.device
    kinds = torch.multinomial(torch.tensor(list(KINDS.values())), count, replacement=True)
    kind = kinds.to(device)
    names = list(KINDS)

    def is_kind(*wanted: str) -> Tensor:
        return torch.stack([kind == names.index(name) for name in wanted]).any(dim=0)

    coords = torch.zeros(count, 3, 2, device=device)
    labels = torch.full((count, 3), float(contract.LABEL_PADDING), device=device)

    corners = box(masks)
    sides = (corners[:, 1] - corners[:, 0])[:, None]  # [P, 1, 2]
    corners = corners + torch.randn_like(corners) * 0.04 * sides
    boxed = is_kind("box", "box and click")
    coords[boxed, :2] = corners[boxed]
    labels[boxed, :2] = torch.tensor(
        [contract.LABEL_BOX_TOP_LEFT, contract.LABEL_BOX_BOTTOM_RIGHT], dtype=torch.float
    ).to(device)

    def add(column: int, which: Tensor, points: Tensor, label: int) -> None:
        coords[which, column] = points[which]
        labels[which, column] = float(label)

    foreground = contract.LABEL_FOREGROUND
    inside = click(masks, 0.9 * torch.rand(count, device=device))
    add(0, is_kind("click", "click and negative", "clicks"), inside, foreground)
    add(2, is_kind("box and click"), inside, foreground)
    second = click(masks, 0.9 * torch.rand(count, device=device))
    add(1, is_kind("clicks"), second, foreground)
    near = functional.max_pool2d(masks[:, None].float(), 17, stride=1, padding=8)[:, 0].bool()
    near = near & ~masks
    outside = click(near, torch.zeros(count, device=device))
    negative = is_kind("click and negative") & near.any(dim=(1, 2))
    add(1, negative, outside, contract.LABEL_BACKGROUND)
    return coords, labels


def corrections(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the click with which a user would correct each mask: amid the larger kind of error.

    Args:
        logits: [P, 256, 256].
        masks: bool [P, 256, 256].

    Returns:
        coordinates [P, 1, 2] in the input frame, and labels [P, 1]. A mask without an error gets
        padding.
    """
    predicted = logits > 0
    missing, extra = masks & ~predicted, predicted & ~masks
    is_missing = depth(missing).amax((1, 2)) >= depth(extra).amax((1, 2))
    error = torch.where(is_missing[:, None, None], missing, extra)
    coords = click(error, torch.ones(len(masks), device=masks.device))
    labels = torch.where(is_missing, contract.LABEL_FOREGROUND, contract.LABEL_BACKGROUND)
    labels = torch.where(error.any(dim=(1, 2)), labels, contract.LABEL_PADDING)
    return coords[:, None], labels[:, None].float()


def with_clicks(
    coords: Tensor, labels: Tensor, added: Tensor, kinds: Tensor
) -> tuple[Tensor, Tensor]:
    """Return prompts with more points. Padding goes last: the first padding has its own token."""
    labels = torch.cat([labels, kinds], dim=1)
    index = (labels == contract.LABEL_PADDING).int().argsort(dim=1, stable=True)
    coords = torch.cat([coords, added], dim=1).gather(1, index[..., None].expand(-1, -1, 2))
    return coords, labels.gather(1, index)
