"""Collages: cut-outs on photographs, with the exact mask of each, made on the training's device.

Objects cover each other, cast shadows, look alike or stand in rows, and the whole is blurred, noisy
or enlarged as photographs are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from hqsam_client import contract
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from training.light.material import CUTOUT_SIDE, Material

SIDE = contract.INPUT_SIZE

PADDING = -1.0
"""What stands for a pixel beyond the image."""


class _Paste(NamedTuple):
    """Which cut-out goes where: its centre and longer side in pixels, and how it is turned."""

    cutout: int
    x: float
    y: float
    size: float
    angle: float
    stretch: float
    flipped: bool


def draw(material: Material, rng: Generator) -> tuple[Tensor, Tensor]:
    """Make a collage that fills the input frame along its longer side.

    Returns:
        float [3, 1024, 1024], RGB from 0 to 1, with `PADDING` beyond the image; and uint8
        [1024, 1024], 0 for no object, else the number of the object that is visible there.
    """
    height, width = size(rng)
    image = _background(material, rng, height, width)
    labels = torch.zeros(height, width, dtype=torch.uint8, device=image.device)
    pastes = _in_rows(material, rng, height, width) if rng.random() < 0.15 else None
    for number, paste in enumerate(pastes or _at_random(material, rng, height, width), start=1):
        image = _add(image, labels, number, paste, material, rng)
    image = developed(image, rng)
    room = (0, SIDE - width, 0, SIDE - height)
    return functional.pad(image, room, value=PADDING), functional.pad(labels, room)


def size(rng: Generator) -> tuple[int, int]:
    """Return a random height and width; the longer one is that of the input frame."""
    if rng.random() < 0.2:
        return SIDE, SIDE
    short = int(SIDE * rng.uniform(0.5, 1.0))
    return (short, SIDE) if rng.random() < 0.5 else (SIDE, short)


def _background(material: Material, rng: Generator, height: int, width: int) -> Tensor:
    device = material.cutouts[0].device
    if rng.random() < 0.12:
        corners = torch.from_numpy(rng.random((1, 3, 3, 3)).astype(np.float32)).to(device)
        mean = corners.mean((2, 3), keepdim=True)
        corners = mean + (corners - mean) * rng.uniform(0, 0.8)
        return functional.interpolate(
            corners, (height, width), mode="bilinear", align_corners=True
        )[0]
    photo = material.photos[rng.integers(len(material.photos))]
    _, rows, columns = photo.shape
    # A part of the same shape, of half the photograph or more.
    part = min(rows / height, columns / width) * rng.uniform(0.5, 1.0)
    tall, wide = max(8, int(height * part)), max(8, int(width * part))
    top, left = rng.integers(rows - tall + 1), rng.integers(columns - wide + 1)
    cut = photo[None, :, top : top + tall, left : left + wide].float() / 255
    if rng.random() < 0.5:
        cut = cut.flip(-1)
    image = functional.interpolate(cut, (height, width), mode="bilinear", antialias=True)[0]
    return _blurred(image, rng.uniform(2, 12)) if rng.random() < 0.15 else image


def _at_random(material: Material, rng: Generator, height: int, width: int) -> list[_Paste]:
    count = int(rng.integers(1, 9))
    sizes = np.exp(rng.uniform(math.log(50), math.log(800), count))
    if rng.random() < 0.7:
        sizes = np.sort(sizes)[::-1]  # small objects lie on top: otherwise few would be visible
    alike = rng.random() < 0.2
    pastes: list[_Paste] = []
    for size in sizes:
        again = bool(pastes) and alike and rng.random() < 0.7
        number = pastes[-1].cutout if again else _choose(material, rng)
        upright = rng.random() < 0.6
        angle = rng.normal(0, 8) if upright else rng.uniform(-180, 180)
        stretch = float(np.exp(rng.normal(0, 0.12)))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        pastes.append(_Paste(number, x, y, float(size), angle, stretch, rng.random() < 0.5))
    return pastes


def _in_rows(material: Material, rng: Generator, height: int, width: int) -> list[_Paste]:
    """Return places side by side, of one cut-out or two, as of goods on a shelf."""
    step = max(
        float(np.exp(rng.uniform(math.log(120), math.log(380)))), math.sqrt(height * width / 40)
    )
    cutouts = [_choose(material, rng) for _ in range(int(rng.integers(1, 3)))]
    size, loose = step * rng.uniform(0.7, 1.05), step * rng.uniform(0, 0.12)
    turned = rng.random() < 0.5
    return [
        _Paste(
            int(rng.choice(cutouts)),
            float(x + rng.normal(0, loose)),
            float(y + rng.normal(0, loose)),
            float(size * rng.uniform(0.85, 1.1)),
            rng.uniform(-180, 180) if turned else rng.normal(0, 4),
            1.0,
            False,
        )
        for y in np.arange(rng.uniform(0.3, 0.7) * step, height, step)
        for x in np.arange(rng.uniform(0.3, 0.7) * step, width, step)
        if rng.random() < 0.92
    ]


def _choose(material: Material, rng: Generator) -> int:
    return int(rng.choice(len(material.chances), p=material.chances))


def _add(
    image: Tensor, labels: Tensor, number: int, paste: _Paste, material: Material, rng: Generator
) -> Tensor:
    """Return the image with an object; `labels` is changed in place."""
    layer = _placed(paste, material, *labels.shape)  # [4, H, W]
    alpha = layer[3:]
    gains = torch.tensor(np.exp(rng.normal(0, 0.12, (3, 1, 1)) + rng.normal(0, 0.2)))
    colours = layer[:3] * gains.to(layer)
    if rng.random() < 0.3:  # lit from one side
        first, last = rng.uniform(0.6, 1.25, 2).tolist()
        ramp = torch.linspace(first, last, labels.shape[1], device=image.device)
        colours = colours * ramp
    colours = torch.minimum(colours, alpha)
    if rng.random() < 0.4:
        shift = max(2, int(paste.size * rng.uniform(0.02, 0.12)))
        sideways = int(rng.integers(-shift, shift + 1))
        shadow = alpha.roll((shift, sideways), dims=(1, 2))
        shadow = _blurred(shadow, max(2.0, paste.size * rng.uniform(0.02, 0.08)))
        image = image * (1 - shadow * rng.uniform(0.2, 0.7))
    labels[alpha[0] > 0.5] = number
    return image * (1 - alpha) + colours


def _placed(paste: _Paste, material: Material, height: int, width: int) -> Tensor:
    """Return a cut-out at its place: float [4, H, W]."""
    level = int(np.clip(math.log2(CUTOUT_SIDE / paste.size), 0, len(material.cutouts) - 1))
    source = material.cutouts[level][paste.cutout][None].float() / 255
    turn = math.radians(paste.angle)
    cos, sin = math.cos(turn), math.sin(turn)
    across, down = 1 / paste.stretch, paste.stretch
    if paste.flipped:
        across = -across
    # From the output's normalised coordinates to the cut-out's.
    wide, tall = width / paste.size, height / paste.size
    x, y = 2 * paste.x / width - 1, 2 * paste.y / height - 1
    rows = [
        [cos * wide * across, sin * tall * across, 0.0],
        [-sin * wide * down, cos * tall * down, 0.0],
    ]
    for row in rows:
        row[2] = -row[0] * x - row[1] * y
    grid = functional.affine_grid(
        torch.tensor([rows], device=source.device), [1, 4, height, width], align_corners=False
    )
    return functional.grid_sample(source, grid, align_corners=False)[0]


def developed(image: Tensor, rng: Generator) -> Tensor:
    """Return the image as a camera and a file would leave it."""
    _, height, width = image.shape
    if rng.random() < 0.35:
        image = _blurred(image, rng.uniform(0.3, 1.8))
    if rng.random() < 0.25:
        scale = rng.uniform(0.3, 0.9)
        small = functional.interpolate(
            image[None], (int(height * scale), int(width * scale)), mode="bilinear", antialias=True
        )
        image = functional.interpolate(small, (height, width), mode="bilinear")[0]
    image = image * float(np.exp(rng.normal(0, 0.15)))
    image = (image - 0.5) * float(np.exp(rng.normal(0, 0.15))) + 0.5
    if rng.random() < 0.06:
        image = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    image = image + torch.randn_like(image) * (rng.uniform(0, 0.04) * (rng.random() < 0.6))
    return image.clamp(0, 1)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Return a Gaussian blur of [C, H, W]."""
    reach = max(1, math.ceil(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = functional.pad(image[:, None], (reach, reach, reach, reach), mode="replicate")
    x = functional.conv2d(x, kernel[None, None, None, :])
    return functional.conv2d(x, kernel[None, None, :, None])[:, 0]
