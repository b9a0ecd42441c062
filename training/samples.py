"""Training batches: scenes or parts of scenes, objects in them, and prompts for the objects."""

from __future__ import annotations

from dataclasses import dataclass, fields

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
"""Most points of a first prompt: the corners of a box and a click, or three clicks."""

MEAN = np.array(contract.PIXEL_MEAN, np.float32)
STD = np.array(contract.PIXEL_STD, np.float32)


@dataclass(frozen=True)
class Batch:
    """The input of a training step: B images of S x S tokens, P prompts on each.

    Attributes:
        images: float32 [B, 3, 16 * S, 16 * S], normalised, padded with zeros.
        corners: int64 [B, 2], first row and column of the image in the input frame, in tokens.
        point_coords: float32 [B * P, 3, 2], (x, y) in pixels of the input frame.
        point_labels: float32 [B * P, 3], the contract's label codes.
        masks: float32 [B * P, 1, 4 * S, 4 * S], covered fraction of each low-resolution
            pixel.
        anchors: int64 [B * P, 2], (row, column) of a token of each object, in the square.
    """

    images: Tensor
    corners: Tensor
    point_coords: Tensor
    point_labels: Tensor
    masks: Tensor
    anchors: Tensor

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        until: the fraction of all steps at which it ends.
        side: S, tokens along the side of a square; 64 for whole images.
        images: B, squares in a batch.
        prompts: P, prompts on each.
        texture: share of textures in the scenes, at the beginning and at the end of the stage.
    """

    until: float
    side: int
    images: int
    prompts: int
    texture: tuple[float, float]


STAGES = (
    Stage(0.26, 14, 8, 4, (0.1, 0.87)),
    Stage(0.949, 28, 2, 5, (0.87, 1.0)),
    Stage(0.995, 44, 1, 6, (1.0, 1.0)),
    Stage(1.0, contract.EMBEDDING_SIZE, 1, 6, (1.0, 1.0)),
)
"""From small squares, which cost least for what they teach, to whole images.

Attention to a whole image costs 400 times as much as attention to a square of 14 tokens.
"""


class Batches(Dataset[Batch]):
    """All batches of a training. Batch i depends on the seed and i only."""

    def __init__(self, steps: int, seed: int) -> None:
        self.steps, self.seed = steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        cv2.setNumThreads(1)
        progress = index / self.steps
        begin, stage = 0.0, STAGES[0]
        for stage in STAGES:
            if progress < stage.until:
                break
            begin = stage.until
        low, high = stage.texture
        texture = low + (high - low) * (progress - begin) / (stage.until - begin)
        rng = np.random.default_rng([self.seed, index])
        return _joined([_square(rng, stage, texture) for _ in range(stage.images)])


def _joined(squares: list[Batch]) -> Batch:
    return Batch(
        *(torch.cat([getattr(one, field.name) for one in squares]) for field in fields(Batch))
    )


def _square(rng: Generator, stage: Stage, texture: float) -> Batch:
    for _ in range(100):
        scene = _scene(rng, stage.side, texture)
        if len(scene.masks):
            return _batch_of_one(rng, scene, stage)
    raise RuntimeError("a hundred scenes without an object")


def _scene(rng: Generator, side: int, texture: float) -> scenes.Scene:
    """Draw a scene that fills a square of `side` tokens, or most of it: images are not square."""
    full = side * PATCH
    width = height = full
    if rng.random() < (0.2 if side < contract.EMBEDDING_SIZE else 0.8):
        short = int(full * rng.uniform(0.4, 1.0))
        width, height = (full, short) if rng.random() < 0.5 else (short, full)
    # A quarter of the scenes is drawn smaller and enlarged, like small images.
    source = float(np.exp(rng.uniform(np.log(0.4), 0))) if rng.random() < 0.25 else 1.0
    # Objects are smaller in a smaller square: otherwise one would fill it.
    objects = (side / contract.EMBEDDING_SIZE) ** 0.5 * float(np.exp(rng.uniform(-0.4, 1.1)))
    scene = scenes.draw(
        int(rng.integers(1 << 62)),
        max(16, int(width * source)),
        max(16, int(height * source)),
        scale=source * objects,
        texture=texture,
        min_area_px=int(900 * source**2),
    )
    if source == 1.0 or not len(scene.masks):
        return scene
    masks = [
        cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        for mask in scene.masks
    ]
    image = cv2.resize(scene.image, (width, height), interpolation=cv2.INTER_LINEAR)
    return scenes.Scene(np.asarray(image, np.uint8), np.stack(masks))


def _batch_of_one(rng: Generator, scene: scenes.Scene, stage: Stage) -> Batch:
    full = stage.side * PATCH
    height, width = scene.image.shape[:2]
    image = np.zeros((3, full, full), np.float32)
    image[:, :height, :width] = ((scene.image - MEAN) / STD).transpose(2, 0, 1)
    room = contract.EMBEDDING_SIZE - stage.side
    # A square with padding is at the edge of the input frame, any other one anywhere.
    top = int(rng.integers(room + 1)) if height == full else room
    left = int(rng.integers(room + 1)) if width == full else room

    prompts = stage.prompts
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
    return Batch(
        images=torch.from_numpy(image)[None],
        corners=torch.tensor([[top, left]]),
        point_coords=torch.from_numpy(coords),
        point_labels=torch.from_numpy(labels),
        masks=torch.nn.functional.avg_pool2d(torch.from_numpy(masks), LOW_RES),
        anchors=torch.from_numpy(anchors),
    )


def _prompt(rng: Generator, mask: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """Return points (x, y, label) with which a user would prompt for the object."""
    kind = rng.choice(
        ["click", "box", "box and click", "click and negative", "clicks"],
        p=[0.35, 0.4, 0.05, 0.1, 0.1],
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
    """Return a random point (x, y) of the object, more often near its middle."""
    distances = depth(mask)
    rows, columns = np.nonzero(distances >= rng.uniform(0, 0.9) * distances.max())
    index = rng.integers(len(rows))
    return float(columns[index]), float(rows[index])


def centre(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the point (x, y) of the object that is farthest from its outside."""
    row, column = np.unravel_index(depth(mask).argmax(), mask.shape)
    return float(column), float(row)


def depth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each pixel's distance to the outside of the mask; beyond the image is outside."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distances = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(distances, np.float32)


def box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the object's box: x0, y0, x1, y1, in pixels, corners included."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
