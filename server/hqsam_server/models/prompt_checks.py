"""The prompts of a request to `segment`: checked, and padded as the model expects them.

This is the one place of the padding rule. A prompt without a box needs a padding point, label -1,
because the model was trained with it; a prompt with a box needs none. Clients may leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hqsam_client.contract import (
    INPUT_SIZE,
    LABEL_BACKGROUND,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_FOREGROUND,
    LABEL_PADDING,
    MASK_SIZE,
    MAX_POINTS,
    MAX_PROMPTS,
)
from numpy.typing import NDArray

from hqsam_server.errors import BadRequestError

_LABELS = (
    LABEL_PADDING,
    LABEL_BACKGROUND,
    LABEL_FOREGROUND,
    LABEL_BOX_TOP_LEFT,
    LABEL_BOX_BOTTOM_RIGHT,
)

_FARTHEST_PX = 64 * INPUT_SIZE
"""How far outside the input frame a coordinate may be. Detectors put corners of boxes there. The
model takes any number, but its position encoding loses precision, and overflows in the end."""


_LARGEST_LOGIT = 1e4
"""Logits of masks are within some tens. Far larger ones overflow inside the model."""


@dataclass(frozen=True)
class PromptLimits:
    """Limits on a request; one that exceeds them is refused.

    Attributes:
        max_prompts: prompts in one request.
        max_points: points of a prompt, including box corners and padding.
    """

    max_prompts: int = MAX_PROMPTS
    max_points: int = MAX_POINTS


@dataclass(frozen=True)
class Prompts:
    """P prompts of N points each, padded to an N that is a power of two.

    Attributes:
        point_coords: float32 [P, N, 2], (x, y) in the input frame.
        point_labels: float32 [P, N], label codes of the contract.
        mask_input: float32 [P, 1, 256, 256], logits to refine, or None if no prompt has any.
        has_mask_input: float32 [P], 1 where the prompt's `mask_input` is valid, else 0.
    """

    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_input: NDArray[np.float32] | None
    has_mask_input: NDArray[np.float32]

    @classmethod
    def checked(cls, inputs: Mapping[str, NDArray[Any] | None], limits: PromptLimits) -> Prompts:
        """Check and pad the prompts of a request.

        `mask_input` without `has_mask_input` means that every prompt has a mask. The logits of a
        prompt whose `has_mask_input` is 0 are not used. N is padded to a
        power of two, so that `prompt_decoder` sees few shapes.

        Args:
            inputs: inputs of the contract's `segment` by name, None where missing; they are copied.
            limits: limits on their number.

        Raises:
            BadRequestError: the prompts cannot be decoded.
        """
        coords, labels = inputs["point_coords"], inputs["point_labels"]
        if coords is None or labels is None:
            raise BadRequestError("expected point_coords and point_labels, got only one or none")
        _check_shapes(coords, labels, limits)
        _check_labels(labels)
        _check_coords(coords, labels)
        mask, has_mask = _checked_masks(
            inputs.get("mask_input"), inputs.get("has_mask_input"), len(coords)
        )
        return cls(*_padded(coords, labels), mask, has_mask)

    def __len__(self) -> int:
        return len(self.point_coords)

    def one(
        self, number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
        """Return a prompt's points [1, N, 2] and labels [1, N], and its mask [1, 1, 256, 256].

        The mask is None where `has_mask_input` is 0: what `mask_input` holds there is not read.
        """
        this = slice(number, number + 1)
        mask = None
        if self.mask_input is not None and self.has_mask_input[number]:
            mask = self.mask_input[this]
        return self.point_coords[this], self.point_labels[this], mask


def _padded(
    coords: NDArray[np.float32], labels: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pad [P, N, 2] and [P, N] in N; padding points after the first one change no mask."""
    points = labels.shape[1]
    complete = np.isin(labels, (LABEL_PADDING, LABEL_BOX_TOP_LEFT)).any(axis=1)  # [P]
    needed = points if complete.all() else points + 1
    missing = max(2, 1 << (needed - 1).bit_length()) - points
    return (
        np.pad(coords, ((0, 0), (0, missing), (0, 0))),
        np.pad(labels, ((0, 0), (0, missing)), constant_values=LABEL_PADDING),
    )


def _check_shapes(coords: NDArray[Any], labels: NDArray[Any], limits: PromptLimits) -> None:
    if coords.ndim != 3 or coords.shape[2] != 2 or labels.shape != coords.shape[:2]:
        raise BadRequestError(
            f"point_coords has shape {list(coords.shape)} and point_labels "
            f"{list(labels.shape)}, expected [P, N, 2] and [P, N]"
        )
    count, points = labels.shape
    if not 1 <= count <= limits.max_prompts:
        raise BadRequestError(
            f"the request has {count} prompts, expected 1 to {limits.max_prompts}: "
            "split it into several requests"
        )
    if not 1 <= points <= limits.max_points:
        raise BadRequestError(
            f"the prompts have {points} points each, expected 1 to {limits.max_points}"
        )


def _check_labels(labels: NDArray[Any]) -> None:
    unknown = ~np.isin(labels, _LABELS)
    if unknown.any():
        prompt, point = np.argwhere(unknown)[0]
        raise BadRequestError(
            f"point_labels[{prompt}, {point}] is {labels[prompt, point]:g}, expected 0 background, "
            "1 foreground, 2 top-left box corner, 3 bottom-right box corner or -1 padding"
        )
    corners = [
        (labels == corner).sum(axis=1) for corner in (LABEL_BOX_TOP_LEFT, LABEL_BOX_BOTTOM_RIGHT)
    ]  # [P] each
    wrong = (corners[0] != corners[1]) | (corners[0] > 1)
    if wrong.any():
        prompt = int(np.argmax(wrong))
        raise BadRequestError(
            f"prompt {prompt} has {corners[0][prompt]} top-left and {corners[1][prompt]} "
            "bottom-right box corners, expected one of each or none"
        )
    empty = (labels == LABEL_PADDING).all(axis=1)
    if empty.any():
        raise BadRequestError(
            f"prompt {int(np.argmax(empty))} is only padding, expected a point or a box"
        )


def _check_coords(coords: NDArray[Any], labels: NDArray[Any]) -> None:
    if not np.isfinite(coords).all():
        prompt, point, _ = np.argwhere(~np.isfinite(coords))[0]
        raise BadRequestError(
            f"point_coords[{prompt}, {point}] is {_pair(coords[prompt, point])}, "
            "expected finite numbers"
        )
    far = (coords < -_FARTHEST_PX) | (coords > INPUT_SIZE + _FARTHEST_PX)
    far = far.any(axis=2) & (labels != LABEL_PADDING)  # [P, N]
    if far.any():
        prompt, point = np.argwhere(far)[0]
        raise BadRequestError(
            f"point_coords[{prompt}, {point}] is {_pair(coords[prompt, point])}, expected "
            f"pixels of the {INPUT_SIZE} x {INPUT_SIZE} input frame, or at most {_FARTHEST_PX} "
            "outside it"
        )


def _checked_masks(
    mask: NDArray[Any] | None, has_mask: NDArray[Any] | None, count: int
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
    if has_mask is None:
        has_mask = np.full(count, mask is not None, np.float32)
    if has_mask.shape != (count,) or not np.isin(has_mask, (0, 1)).all():
        raise BadRequestError(
            f"has_mask_input has shape {list(has_mask.shape)}, expected [{count}], "
            "0 or 1 for each prompt"
        )
    if mask is None:
        if has_mask.any():
            raise BadRequestError("has_mask_input is 1, expected mask_input with it, got none")
        return None, has_mask
    if mask.shape != (count, 1, MASK_SIZE, MASK_SIZE):
        raise BadRequestError(
            f"mask_input has shape {list(mask.shape)}, expected "
            f"[{count}, 1, {MASK_SIZE}, {MASK_SIZE}]: logits for each prompt"
        )
    valid = has_mask == 1  # [P]
    if not np.isfinite(mask[valid]).all():
        raise BadRequestError("mask_input has NaN or infinite logits, expected finite ones")
    far = np.abs(mask[valid]).max(initial=0)
    if far > _LARGEST_LOGIT:
        raise BadRequestError(
            f"mask_input has the logit {far:g}, expected at most {_LARGEST_LOGIT:g} on either side "
            "of 0: logits of an earlier mask"
        )
    return mask.copy(), has_mask


def _pair(point: NDArray[Any]) -> str:
    return f"({point[0]:g}, {point[1]:g})"
