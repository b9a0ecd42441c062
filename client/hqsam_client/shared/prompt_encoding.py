"""Prompts in original pixels, checked, to the tensors that `segment` takes.

As in the official predictor, the centre of the pixel in column c and row r is (c, r), and its
edges are half a pixel away: the model adds that half itself. Coordinates are passed on unchanged,
those a little outside the image included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hqsam_client import contract
from hqsam_client.errors import PromptError
from hqsam_client.mask import Mask
from hqsam_client.shared.geometry import Size, to_input_frame

Points: TypeAlias = Sequence[tuple[float, float]] | NDArray[Any]
"""Points of one prompt: (x, y), that is column and row, in original pixels, or an array [N, 2]."""

Labels: TypeAlias = Sequence[int] | NDArray[Any]
"""Labels of one prompt's points, [N]: 1 foreground, 0 background."""

Box: TypeAlias = Sequence[float] | NDArray[Any]
"""(x0, y0, x1, y1) in original pixels: the left, top, right and bottom side."""

_MARGIN_PX = 1.0
"""How far outside the image a point may lie: detectors and rounding put it there."""


@dataclass(frozen=True)
class Prompt:
    """A checked prompt in original pixels.

    Attributes:
        points: float64 [N, 2], (x, y).
        labels: float64 [N], 1 foreground, 0 background.
        corners: float64 [2, 2], a box's top left and bottom right; [0, 2] if there is none.
        refine: the mask to start from, or None.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.float64]
    corners: NDArray[np.float64]
    refine: Mask | None = None

    def moved(self, x: float, y: float) -> Prompt:
        """Return it in a frame whose origin is at (x, y)."""
        return replace(self, points=self.points - (x, y), corners=self.corners - (x, y))


@dataclass(frozen=True)
class Prompts:
    """P checked prompts, as the `segment` model takes them.

    Attributes:
        coords: float32 [P, N, 2], (x, y) in the input frame.
        labels: float32 [P, N], codes of `contract`; shorter prompts end in padding.
        masks: float32 [P, 1, 256, 256], logits to refine; None when there are none.
        has_mask: float32 [P], 1 where `masks` holds one; None when there are none.
    """

    coords: NDArray[np.float32]
    labels: NDArray[np.float32]
    masks: NDArray[np.float32] | None
    has_mask: NDArray[np.float32] | None

    def parts(self) -> Iterator[Prompts]:
        """Yield the prompts in parts of at most `contract.MAX_PROMPTS`, in order."""
        for start in range(0, len(self.coords), contract.MAX_PROMPTS):
            part = slice(start, start + contract.MAX_PROMPTS)
            yield Prompts(
                self.coords[part],
                self.labels[part],
                None if self.masks is None else self.masks[part],
                None if self.has_mask is None else self.has_mask[part],
            )


def build(
    size: Size,
    points: Points | Sequence[Points | None] | None = None,
    labels: Labels | Sequence[Labels | None] | None = None,
    box: Box | None = None,
    boxes: Sequence[Box | None] | NDArray[Any] | None = None,
    refine: Mask | Sequence[Mask | None] | None = None,
    *,
    anywhere: bool = False,
) -> Prompts:
    """Check prompts, see `check`, and scale them to the input frame."""
    prompts, _ = check(size, points, labels, box, boxes, refine, anywhere=anywhere)
    return stack(prompts, size)


def check(
    size: Size,
    points: Points | Sequence[Points | None] | None = None,
    labels: Labels | Sequence[Labels | None] | None = None,
    box: Box | None = None,
    boxes: Sequence[Box | None] | NDArray[Any] | None = None,
    refine: Mask | Sequence[Mask | None] | None = None,
    *,
    anywhere: bool = False,
) -> tuple[list[Prompt], bool]:
    """Check prompts.

    There are many prompts when `boxes` is given or `points` is a list of lists of
    points; every other argument is then a list with one entry a prompt. Otherwise
    there is one prompt.

    Args:
        size: (height, width) of the image.
        points: as in `Points`, or a list of them, of any lengths; None for none.
        labels: as in `Labels`, or a list of them; None where all are foreground.
        box: a box for the one prompt.
        boxes: a box for each of many prompts, None where there is none, or an array [P, 4].
        refine: an earlier mask of the same image to start from, or a list of them.
        anywhere: take any finite points and boxes, as the official predictor does. Otherwise
            points lie on the image or at most one pixel outside, and boxes overlap it.

    Returns:
        The prompts, and whether the caller asked for a list, even a list of one.

    Raises:
        PromptError: an argument is wrong; the message names it.
    """
    many = boxes is not None or _is_nested(points)
    if many and box is not None:
        raise PromptError("box was given with many prompts, expected boxes: one box for each")
    if not many and labels is not None and points is None:
        raise PromptError("labels were given without points, expected one label for each point")
    if not many and points is None and box is None:
        raise PromptError("no prompt was given, expected at least one of points, box and boxes")
    if boxes is not None:
        _check_many(points, boxes)
    check_size = None if anywhere else size
    of_many = boxes if boxes is not None else points
    count = len(of_many) if many and of_many is not None else 1
    if count == 0:
        raise PromptError("boxes is empty, expected at least one box")
    prompts = []
    for index in range(count):
        suffix = f"[{index}]" if many else ""
        one_points = _entry("points", points, index, count, many)
        one_labels = _entry("labels", labels, index, count, many)
        one_box = _entry("boxes", boxes, index, count, many) if many else box
        one_refine = _mask(_entry("refine", refine, index, count, many), size)
        coords, codes = _points(one_points, one_labels, check_size, suffix)
        corners = _box(one_box, check_size, f"boxes{suffix}" if many else "box")
        if not len(coords) and not len(corners):
            raise PromptError(f"points{suffix} is empty, expected at least one point or a box")
        prompts.append(Prompt(coords, codes, corners, one_refine))
    return prompts, many


def _check_many(points: Any, boxes: Any) -> None:
    """Refuse the arguments of one prompt where those of many are expected."""
    if not isinstance(boxes, (Sequence, np.ndarray)) or isinstance(boxes, str):
        raise PromptError(f"boxes is {_short(boxes)}, expected a list of (x0, y0, x1, y1)")
    if len(boxes) == 4 and np.ndim(boxes[0]) == 0 and boxes[0] is not None:
        raise PromptError(
            f"boxes is {_short(boxes)}, which is one box, expected a list of boxes; "
            "pass it as box for one mask"
        )
    given = isinstance(points, (Sequence, np.ndarray)) and len(points) > 0
    if given and not _is_nested(points):
        raise PromptError(
            f"points is {_short(points)}, which are the points of one object, expected with boxes "
            "a list of points for each box, or None; for one object pass box instead of boxes"
        )


def stack(prompts: Sequence[Prompt], size: Size) -> Prompts:
    """Stack prompts of different lengths, padded at the end, and scale them to the input frame.

    The server adds the padding point that the model expects after a prompt without a box.

    Raises:
        PromptError: a mask to start from has no logits.
    """
    length = max(len(prompt.points) + len(prompt.corners) for prompt in prompts)
    all_coords = np.zeros((len(prompts), length, 2), np.float32)
    all_labels = np.full((len(prompts), length), contract.LABEL_PADDING, np.float32)
    for index, prompt in enumerate(prompts):
        points, corners = prompt.points, prompt.corners
        end = len(points) + len(corners)
        all_coords[index, :end] = to_input_frame(np.concatenate([points, corners]), size)
        all_labels[index, : len(points)] = prompt.labels
        if len(corners):
            all_labels[index, len(points) : end] = (
                contract.LABEL_BOX_TOP_LEFT,
                contract.LABEL_BOX_BOTTOM_RIGHT,
            )
    if all(prompt.refine is None for prompt in prompts):
        return Prompts(all_coords, all_labels, None, None)
    side = contract.MASK_SIZE
    masks = np.zeros((len(prompts), 1, side, side), np.float32)
    has_mask = np.zeros(len(prompts), np.float32)
    for index, prompt in enumerate(prompts):
        if prompt.refine is not None:
            masks[index, 0] = _logits(prompt.refine)
            has_mask[index] = 1
    return Prompts(all_coords, all_labels, masks, has_mask)


def _is_nested(points: Any) -> bool:
    """Tell a list of prompts' points from the points of one prompt."""
    if isinstance(points, np.ndarray):
        return points.ndim == 3
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        return False
    # An entry is a prompt's points, or None or empty for none; or it is one point.
    entry = points[0]
    if entry is None:
        return True
    if not isinstance(entry, (Sequence, np.ndarray)):
        return False
    return not len(entry) or isinstance(entry[0], (Sequence, np.ndarray))


def _entry(name: str, value: Any, index: int, count: int, many: bool) -> Any:
    """Return what belongs to prompt `index`."""
    if value is None or not many:
        return value
    if not isinstance(value, (Sequence, np.ndarray)) or len(value) != count:
        got = f"{len(value)} entries" if isinstance(value, (Sequence, np.ndarray)) else "one"
        raise PromptError(f"{name} has {got}, expected a list of {count}: one for each prompt")
    return value[index]


def _numbers(
    name: str, value: Any, shape: tuple[int | None, ...], what: str
) -> NDArray[np.float64]:
    """Convert to finite float64 of `shape`, None being any length."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"{name} is {_short(value)}, expected {what}") from error
    if array.size == 0 and shape[0] is None:
        return np.empty([side or 0 for side in shape])
    fits = array.ndim == len(shape) and all(
        side in (None, got) for side, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise PromptError(f"{name} is {_short(value)}, expected {what}")
    if not np.isfinite(array).all():
        raise PromptError(f"{name} is {_short(value)}, expected finite numbers")
    return array


def _points(
    points: Any, labels: Any, size: Size | None, suffix: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check one prompt's points and labels; returns [N, 2] and [N].

    Without a size, points may lie anywhere.
    """
    coords = _numbers(
        f"points{suffix}", () if points is None else points, (None, 2), "(x, y) pairs"
    )
    if size is not None:
        _check_near(f"points{suffix}", coords, size)
    if labels is None:
        return coords, np.full(len(coords), float(contract.LABEL_FOREGROUND))
    codes = _numbers(f"labels{suffix}", labels, (None,), "a list of 0 and 1, one for each point")
    if len(codes) != len(coords):
        raise PromptError(
            f"labels{suffix} has {len(codes)} entries for {len(coords)} points, expected one each"
        )
    if not np.isin(codes, (contract.LABEL_BACKGROUND, contract.LABEL_FOREGROUND)).all():
        raise PromptError(
            f"labels{suffix} is {_short(labels)}, expected 1 (foreground) or 0 (background)"
        )
    return coords, codes


def _box(box: Any, size: Size | None, name: str) -> NDArray[np.float64]:
    """Check a box; returns its two corners, [2, 2], or [0, 2] for None.

    Without a size, it may lie anywhere, and its corners may be swapped.
    """
    if box is None:
        return np.empty((0, 2))
    corners = _numbers(name, box, (4,), "(x0, y0, x1, y1)").reshape(2, 2)
    if size is None:
        return corners
    if (corners[0] >= corners[1]).any():
        raise PromptError(f"{name} is {_short(box)}, expected x0 < x1 and y0 < y1")
    height, width = size
    if (corners[0] >= (width, height)).any() or (corners[1] <= 0).any():
        raise PromptError(
            f"{name} is {_short(box)}, which is outside the image, expected a box that overlaps "
            f"it: {width} x {height} pixels (width x height) of the upright image"
        )
    return corners


def _check_near(name: str, coords: NDArray[np.float64], size: Size) -> None:
    height, width = size
    low, high = -_MARGIN_PX, (width - 1 + _MARGIN_PX, height - 1 + _MARGIN_PX)
    outside = ((coords < low) | (coords > high)).any(axis=1)
    if outside.any():
        x, y = coords[outside][0]
        raise PromptError(
            f"{name} has ({x:g}, {y:g}), which is outside the image, expected x from 0 to "
            f"{width - 1} and y from 0 to {height - 1}: columns and rows of the upright image"
        )


def _mask(refine: Any, size: Size) -> Mask | None:
    """Check a mask to start from."""
    if refine is None:
        return None
    if not isinstance(refine, Mask):
        raise PromptError(
            f"refine is of type {type(refine).__name__}, expected an earlier Mask or None"
        )
    if refine.size != size:
        raise PromptError(
            f"refine is a mask of an image of {refine.size} (height, width), "
            f"expected one of this image: {size}"
        )
    return refine


def _logits(refine: Mask) -> NDArray[np.float32]:
    if not refine.has_logits:
        raise PromptError(
            "refine is a mask without logits, expected one that was segmented with logits=True"
        )
    return refine.low_res_logits


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
