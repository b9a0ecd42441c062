"""Makes training samples: a scene or a part of one, objects in it, prompts for them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from hqsam_client import contract
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from training import scenes

PATCH = contract.INPUT_SIZE // contract.EMBEDDING_SIZE
"""Pixels along a token's side."""

LOW_RES = contract.INPUT_SIZE // contract.MASK_SIZE
"""Pixels along the side of a pixel of `low_res_masks`."""

POINTS = 3
"""Points that a first prompt has at most: a box's corners and a click, or three clicks."""

MEAN = np.array(contract.PIXEL_MEAN, np.float32)
STD = np.array(contract.PIXEL_STD, np.float32)


@dataclass(frozen=True)
class Sample:
    """What a training step learns from.

    Attributes:
        image: float32 [1, 3, 16 * S, 16 * S], normalised, padded with zeros.
        top: first row of tokens that the square covers in the 1024 frame.
        left: first column of tokens.
        point_coords: float32 [P, 3, 2], (x, y) in the 1024 frame.
        point_labels: float32 [P, 3], the contract's label codes.
        masks: float32 [P, 1, 4 * S, 4 * S], covered fraction of each low-resolution pixel.
        anchors: int64 [P, 2], (row, column) of a token of each object, in the square.
    """

    image: Tensor
    top: int
    left: int
    point_coords: Tensor
    point_labels: Tensor
    masks: Tensor
    anchors: Tensor

    def to(self, device: str) -> Sample:
        """Return the sample on a device."""
        return Sample(
            self.image.to(device),
            self.top,
            self.left,
            self.point_coords.to(device),
            self.point_labels.to(device),
            self.masks.to(device),
            self.anchors.to(device),
        )


class Samples(Dataset[Sample]):
    """Sample number i is always the same, wherever and whenever it is drawn."""

    def __init__(self, steps: int, prompts: int, seed: int) -> None:
        self.steps, self.prompts, self.seed = steps, prompts, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(1)
        progress = index / self.steps
        for attempt in range(100):
            rng = np.random.default_rng([self.seed, index, attempt])
            # Whole pictures cost seven times as much as a quarter of one, and teach little
            # more: most come when everything else is learned.
            side = 64 if rng.random() < (0.02 if progress < 0.8 else 0.25) else 32
            texture = min(1.0, 0.2 + 4 * progress)
            scene = _scene(rng, side, texture)
            if len(scene.masks):
                return _sample(rng, scene, side, self.prompts)
        raise RuntimeError(f"sample {index} stays without objects")


def _scene(rng: Generator, side: int, texture: float) -> scenes.Scene:
    """Draw what fills a square of `side` tokens, or most of it: pictures are not square."""
    full = side * PATCH
    width = height = full
    if rng.random() < (0.2 if side < contract.EMBEDDING_SIZE else 0.8):
        short = int(full * rng.uniform(0.4, 1.0))
        width, height = (full, short) if rng.random() < 0.5 else (short, full)
    # Small pictures come enlarged, large ones shrunk.
    source = float(np.exp(rng.uniform(np.log(0.4), 0))) if rng.random() < 0.25 else 1.0
    scene = scenes.draw(
        int(rng.integers(1 << 62)),
        max(16, int(width * source)),
        max(16, int(height * source)),
        scale=source * float(np.exp(rng.uniform(-0.4, 0.4))),
        texture=texture,
        min_area_px=int(400 * source**2),
    )
    if source == 1.0 or not len(scene.masks):
        return scene
    masks = [
        cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        for mask in scene.masks
    ]
    image = cv2.resize(scene.image, (width, height), interpolation=cv2.INTER_LINEAR)
    return scenes.Scene(np.asarray(image, np.uint8), np.stack(masks))


def _sample(rng: Generator, scene: scenes.Scene, side: int, prompts: int) -> Sample:
    full = side * PATCH
    height, width = scene.image.shape[:2]
    image = np.zeros((3, full, full), np.float32)
    image[:, :height, :width] = ((scene.image - MEAN) / STD).transpose(2, 0, 1)
    room = contract.EMBEDDING_SIZE - side
    # A picture ends where the frame ends, unless the padding shows.
    top = int(rng.integers(room + 1)) if height == full else room
    left = int(rng.integers(room + 1)) if width == full else room

    coords = np.zeros((prompts, POINTS, 2), np.float32)
    labels = np.full((prompts, POINTS), contract.LABEL_PADDING, np.float32)
    masks = np.zeros((prompts, 1, full, full), np.float32)
    anchors = np.zeros((prompts, 2), np.int64)
    chosen = rng.choice(len(scene.masks), prompts, replace=len(scene.masks) < prompts)
    for row, number in enumerate(chosen):
        mask = scene.masks[number]
        points = _prompt(rng, mask)
        for column, (x, y, label) in enumerate(points):
            coords[row, column] = (x + left * PATCH, y + top * PATCH)
            labels[row, column] = label
        masks[row, 0, :height, :width] = mask
        x, y = click(rng, mask)
        anchors[row] = (int(y) // PATCH, int(x) // PATCH)
    return Sample(
        image=torch.from_numpy(image)[None],
        top=top,
        left=left,
        point_coords=torch.from_numpy(coords),
        point_labels=torch.from_numpy(labels),
        masks=torch.nn.functional.avg_pool2d(torch.from_numpy(masks), LOW_RES),
        anchors=torch.from_numpy(anchors),
    )


def _prompt(rng: Generator, mask: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """Return points (x, y, label) that a user would give for the object."""
    kind = rng.choice(
        ["click", "box", "box and click", "click and negative", "clicks"],
        p=[0.5, 0.25, 0.05, 0.1, 0.1],
    )
    points: list[tuple[float, float, int]] = []
    if kind.startswith("box"):
        x0, y0, x1, y1 = box(mask)
        jitter = rng.normal(0, 0.03, 4) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
        points.append((x0 + jitter[0], y0 + jitter[1], contract.LABEL_BOX_TOP_LEFT))
        points.append((x1 + jitter[2], y1 + jitter[3], contract.LABEL_BOX_BOTTOM_RIGHT))
    if kind != "box":
        points.append((*click(rng, mask), contract.LABEL_FOREGROUND))
    if kind == "clicks":
        points.append((*click(rng, mask), contract.LABEL_FOREGROUND))
    if kind == "click and negative":
        near = cv2.dilate(mask.astype(np.uint8), np.ones((61, 61), np.uint8)) > 0
        near &= ~mask
        if near.any():
            points.append((*click(rng, near), contract.LABEL_BACKGROUND))
    return points


def click(rng: Generator, mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return a point (x, y) of the object, as often near its middle as anywhere."""
    distances = depth(mask)
    rows, columns = np.nonzero(distances >= rng.uniform(0, 0.9) * distances.max())
    index = rng.integers(len(rows))
    return float(columns[index]), float(rows[index])


def centre(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the point (x, y) of the object that is farthest from its outside."""
    row, column = np.unravel_index(depth(mask).argmax(), mask.shape)
    return float(column), float(row)


def depth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each pixel's distance from outside the mask; the picture's edge is outside."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distances = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(distances, np.float32)


def box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the object's box: x0, y0, x1, y1, in pixels, corners included."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
