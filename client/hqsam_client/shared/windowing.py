"""Which window a prompt goes to, prompts to requests in windows, and masks back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hqsam_client.contract import INPUT_SIZE
from hqsam_client.errors import PromptError
from hqsam_client.mask import Mask
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.modes import Mode
from hqsam_client.shared.prompt_encoding import Box, Labels, Points, Prompt, check, stack
from hqsam_client.shared.protocol import Flow, masks_flow
from hqsam_client.shared.sources import Uploads
from hqsam_client.shared.upload import Upload
from hqsam_client.windows import Window, WindowMask

_ROOM = 1 / 8
"""Of a box's longer side: what a window shows around it at least."""

_AROUND = 3
"""Sides of an object that a window has into which the client zooms."""

_SMALL_PX = 256
"""An object whose box is smaller than this in the input frame is zoomed into by itself."""

ZOOMS = 3
"""Windows of one object, at most: the first mask of a click may have been far too large."""

_STILL_SMALL = 1 / 5
"""Of a window's side: a smaller object is zoomed into again."""

_LEAST_PX = 256
"""Side of a window, at least: pixels that are enlarged more show nothing more."""


@dataclass(frozen=True)
class Group:
    """Prompts that go to one window.

    Attributes:
        window: the window.
        prompts: in its pixels.
        numbers: of the prompts in the request of the caller.
    """

    window: Window
    prompts: Sequence[Prompt]
    numbers: Sequence[int]

    def flow(self, upload: Upload, mode: Mode, logits: bool) -> Flow[list[Mask]]:
        """Segment; returns a mask in pixels of the window for each prompt.

        Args:
            upload: the window.
            mode: which masks.
            logits: whether they need logits.
        """
        return masks_flow(upload, stack(self.prompts, upload.size), mode, logits)

    def placed(self, masks: Sequence[Mask], uploads: Uploads) -> list[tuple[int, WindowMask]]:
        """Return the masks in pixels of the whole image, each with the number of its prompt."""
        whole = [WindowMask(it, self.window, uploads.size, uploads.full_image) for it in masks]
        return list(zip(self.numbers, whole, strict=True))


def groups(prompts: Sequence[Prompt], size: Size, grid: Sequence[Window]) -> list[Group]:
    """Distribute prompts over windows.

    Args:
        prompts: in pixels of the whole image.
        size: (height, width) of the whole image.
        grid: windows to choose from.

    Raises:
        PromptError: `refine` is not a mask that was found in a window.
    """
    boxes = np.array(grid, np.float64)
    numbers: dict[Window, list[int]] = {}
    for number, prompt in enumerate(prompts):
        numbers.setdefault(_window(prompt, size, boxes), []).append(number)
    return [
        Group(window, [_in_window(prompts[it], window) for it in chosen], chosen)
        for window, chosen in numbers.items()
    ]


def _in_window(prompt: Prompt, window: Window) -> Prompt:
    moved = prompt.moved(window[0], window[1])
    if not isinstance(prompt.refine, WindowMask):
        return moved
    refine = prompt.refine.inner if prompt.refine.window == window else None
    return replace(moved, refine=refine)


def _window(prompt: Prompt, size: Size, grid: NDArray[np.float64]) -> Window:
    """Return the window of a prompt: see `WindowedImage.segment` for the rule."""
    area = _area(prompt, size)
    refine = prompt.refine
    if refine is not None:
        if not isinstance(refine, WindowMask):
            raise PromptError("refine is a mask of the whole image, expected one of its windows")
        if _fits(area, np.array([refine.window], np.float64))[0]:
            return refine.window
    fits = _fits(area, grid)
    if not fits.any():
        return square(area, (1 + 4 * _ROOM) * max(area[2:] - area[:2]), size)
    centre = (area[:2] + area[2:]) / 2
    distance = np.hypot(*((grid[:, :2] + grid[:, 2:]) / 2 - centre).T)
    x0, y0, x1, y1 = grid[np.where(fits, distance, np.inf).argmin()].astype(int).tolist()
    return x0, y0, x1, y1


def _area(prompt: Prompt, size: Size) -> NDArray[np.float64]:
    """Return (x0, y0, x1, y1) around the points and the box, within the image."""
    corners = prompt.corners
    if len(corners):
        room = _ROOM * (corners[1] - corners[0]).max()
        corners = corners + np.array([[-room], [room]])
    points = np.concatenate([prompt.points, corners])
    points = np.clip(points, 0, (size[1], size[0]))
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _fits(area: NDArray[np.float64], windows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell of each window, [W, 4], whether it holds an area."""
    low, high = windows[:, :2] <= area[:2], windows[:, 2:] >= area[2:]
    fits: NDArray[np.bool_] = (low & high).all(axis=1)
    return fits


def square(area: NDArray[np.float64], side: float, size: Size) -> Window:
    """Return a square window around the centre of an area, moved and cut to fit the image.

    Args:
        area: (x0, y0, x1, y1) in original pixels.
        side: of the square, in original pixels.
        size: (height, width) of the image.
    """
    length = max(_LEAST_PX, int(np.ceil(side)))
    edges = []
    for axis, limit in ((0, size[1]), (1, size[0])):
        start = int(np.rint((area[axis] + area[axis + 2] - length) / 2))
        start = max(0, min(start, limit - length))
        edges.append((start, min(start + length, limit)))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def is_small(mask: Mask) -> bool:
    """Tell whether an object shows more in a window: it is small, and the image was shrunk."""
    longest = max(mask.size)
    return longest > INPUT_SIZE and 0 < _side(mask) * INPUT_SIZE < _SMALL_PX * longest


def is_still_small(mask: WindowMask, prompt: Prompt) -> bool:
    """Tell whether an object shows more in a smaller window, which the last mask says how large."""
    x0, y0, x1, y1 = mask.window
    longest = max(x1 - x0, y1 - y0)
    found_by_mask = not len(prompt.corners)
    return found_by_mask and longest > _LEAST_PX and 0 < _side(mask) < _STILL_SMALL * longest


def _side(mask: Mask) -> int:
    """Return the longer side of a mask's box, in original pixels; 0 if it is empty."""
    x0, y0, x1, y1 = mask.box or (0, 0, 0, 0)
    return max(x1 - x0, y1 - y0)


def zoom_prompt(
    size: Size, points: Points | None, labels: Labels | None, box: Box | None, mask: Mask | None
) -> Prompt:
    """Check what says where an object is to zoom into, and return its prompt.

    Raises:
        PromptError: an argument is wrong, or there is none.
    """
    if mask is not None and mask.size != size:
        raise PromptError(
            f"mask is one of an image of {mask.size} (height, width), expected {size}"
        )
    if mask is not None and points is None and labels is None and box is None:
        return Prompt(np.empty((0, 2)), np.empty(0), np.empty((0, 2)))
    (prompt, *others), _ = check(size, points, labels, box)
    if others:
        raise PromptError("points are those of several objects, expected those of one")
    return prompt


def zoomed(prompt: Prompt, mask: Mask | None, size: Size) -> Group:
    """Return the request that segments an object in a window around it.

    Args:
        prompt: in pixels of the whole image. Points outside the window are left out.
        mask: of the object. It says where the object is if the prompt has no box, and is the
            prompt, with its box, if there is no other.
        size: (height, width) of the whole image.

    Raises:
        PromptError: there is no box: the mask is empty, or None.
    """
    corners = prompt.corners
    if not len(corners):
        if mask is None or mask.box is None:
            raise PromptError("the mask is empty, expected one of an object to zoom into")
        corners = np.array(mask.box, np.float64).reshape(2, 2)
    window = square(corners.ravel(), _AROUND * (corners[1] - corners[0]).max(), size)
    inside = ((prompt.points >= window[:2]) & (prompt.points < window[2:])).all(axis=1)
    kept = corners if not inside.any() else prompt.corners
    moved = Prompt(prompt.points[inside], prompt.labels[inside], kept).moved(*window[:2])
    return Group(window, [moved], [0])
