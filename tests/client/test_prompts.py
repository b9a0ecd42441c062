"""Prompts: what is sent for them, and which are refused before anything is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hqsam_client import PromptError
from hqsam_client.mask import Mask
from hqsam_client.shared.prompt_encoding import build, check

SIZE = (512, 1024)  # the input frame's x and y are these pixels


def mask(size: tuple[int, int] = SIZE, value: float = 1.0) -> Mask:
    return Mask(np.full((256, 256), value, np.float32), 0.5, size)


def is_many(**prompts: Any) -> bool:
    _, many = check(SIZE, **prompts)
    return many


def test_a_point_is_sent_without_padding_which_is_the_servers() -> None:
    prompts = build(SIZE, points=[(420, 310)])
    assert prompts.coords.tolist() == [[[420, 310]]]
    assert prompts.labels.tolist() == [[1]]
    assert prompts.masks is None
    assert prompts.has_mask is None
    assert not is_many(points=[(420, 310)])


def test_a_box_is_its_two_corners_without_padding() -> None:
    prompts = build(SIZE, box=(10, 20, 300, 400))
    assert prompts.coords.tolist() == [[[10, 20], [300, 400]]]
    assert prompts.labels.tolist() == [[2, 3]]


def test_the_corners_of_a_box_follow_its_points() -> None:
    prompts = build(SIZE, points=[(5, 6), (7, 8)], labels=[1, 0], box=(10, 20, 300, 400))
    assert prompts.coords.tolist() == [[[5, 6], [7, 8], [10, 20], [300, 400]]]
    assert prompts.labels.tolist() == [[1, 0, 2, 3]]


def test_coordinates_are_sent_in_the_input_frame() -> None:
    prompts = build((2000, 1000), points=[(1000, 2000)])
    assert prompts.coords[0, 0].tolist() == [512, 1024]


def test_ragged_prompts_are_padded_at_the_end() -> None:
    ragged = [[(1, 2)], [(3, 4), (5, 6), (7, 8)]]
    prompts = build(SIZE, points=ragged, labels=[None, [1, 0, 1]])
    assert is_many(points=ragged)
    assert prompts.coords.shape == (2, 3, 2)
    assert prompts.labels.tolist() == [[1, -1, -1], [1, 0, 1]]


def test_in_a_batch_a_prompt_has_a_box_or_points_or_both() -> None:
    prompts = build(
        SIZE, points=[None, [(1, 2)], [(3, 4)]], boxes=[(0, 0, 9, 9), None, (1, 1, 8, 8)]
    )
    assert prompts.labels.tolist() == [[2, 3, -1], [1, -1, -1], [1, 2, 3]]


def test_arrays_are_taken_where_lists_are() -> None:
    one = build(SIZE, points=np.array([[1, 2]]), labels=np.array([0]), box=np.array([0, 0, 9, 9]))
    assert one.labels.tolist() == [[0, 2, 3]]
    many = build(SIZE, boxes=np.array([[0, 0, 9, 9], [1, 1, 8, 8]], np.int64))
    assert many.coords.shape == (2, 2, 2)
    nested = build(SIZE, points=np.zeros((3, 2, 2)))
    assert is_many(points=np.zeros((3, 2, 2)))
    assert nested.coords.shape == (3, 2, 2)


def test_one_list_of_one_box_is_still_many() -> None:
    assert is_many(boxes=[(0, 0, 9, 9)])


@pytest.mark.parametrize(
    "box", [(-40.5, -3, 30, 40), (900, 400, 1024.4, 512.3), (-1, -1, 2000, 2000)]
)
def test_a_box_over_the_edge_of_the_image_is_sent_unchanged(box: tuple[float, ...]) -> None:
    prompts = build(SIZE, box=box)
    np.testing.assert_allclose(prompts.coords.reshape(-1), box, rtol=1e-6)


@pytest.mark.parametrize("point", [(-1, -1), (1024, 512), (1023.6, -0.4)])
def test_a_point_up_to_one_pixel_outside_the_image_is_sent_unchanged(
    point: tuple[float, float],
) -> None:
    np.testing.assert_allclose(build(SIZE, points=[point]).coords[0, 0], point, rtol=1e-6)


def test_the_official_predictors_prompts_may_lie_anywhere() -> None:
    prompts = build(SIZE, points=[(-300, 4000)], box=(50, 60, 20, -700), anywhere=True)
    assert prompts.coords.tolist() == [[[-300, 4000], [50, 60], [20, -700]]]
    with pytest.raises(PromptError, match="expected finite numbers"):
        build(SIZE, points=[(float("nan"), 2)], anywhere=True)


def test_many_prompts_are_cut_into_parts_that_a_server_takes() -> None:
    boxes = [(i, 0, i + 1, 9) for i in range(600)]
    refine = [mask(value=i) if i in (255, 256) else None for i in range(600)]
    parts = list(build(SIZE, boxes=boxes, refine=refine).parts())
    assert [len(part.coords) for part in parts] == [256, 256, 88]
    assert [x for part in parts for x in part.coords[:, 0, 0]] == list(range(600))
    assert [float(part.has_mask.sum()) for part in parts if part.has_mask is not None] == [1, 1, 0]
    assert parts[1].masks is not None
    assert parts[1].masks[0].max() == 256


def test_earlier_masks_are_sent_beside_the_prompts_that_refine_them() -> None:
    prompts = build(SIZE, boxes=[(0, 0, 9, 9)] * 3, refine=[None, mask(value=3), None])
    assert prompts.masks is not None
    assert prompts.has_mask is not None
    assert prompts.masks.shape == (3, 1, 256, 256)
    assert prompts.masks[:, 0, 0, 0].tolist() == [0, 3, 0]
    assert prompts.has_mask.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no prompt was given"),
        ({"points": []}, "points is empty"),
        ({"points": [[]]}, r"points\[0\] is empty"),
        ({"boxes": []}, "boxes is empty"),
        ({"labels": [1]}, "labels were given without points"),
        ({"points": [(1025, 3)]}, r"points has \(1025, 3\), which is outside the image"),
        (
            {"points": [(3, -1.5)]},
            "outside the image, expected x from 0 to 1023 and y from 0 to 511",
        ),
        ({"points": [(float("nan"), 2)]}, "points is .* expected finite numbers"),
        ({"points": [(1, 2, 3)]}, r"points is \[\(1, 2, 3\)\], expected \(x, y\) pairs"),
        ({"points": (1, 2)}, r"points is \(1, 2\), expected \(x, y\) pairs"),
        ({"points": 5}, "points is 5"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "labels has 2 entries for 1 points"),
        ({"points": [(1, 2)], "labels": [2]}, r"labels is \[2\], expected 1 \(foreground\)"),
        ({"points": [(1, 2)], "labels": 1}, "labels is 1, expected a list"),
        ({"box": (5, 5, 5, 9)}, "expected x0 < x1 and y0 < y1"),
        ({"box": (9, 5, 5, 9)}, "box is .* expected x0 < x1"),
        ({"box": (1024, 0, 2000, 9)}, r"box is \(1024, 0, 2000, 9\), which is outside the image"),
        ({"box": (-9, -9, 0, 9)}, "expected a box that overlaps it: 1024 x 512 pixels"),
        ({"box": (0, 0, 9)}, r"box is \(0, 0, 9\), expected \(x0, y0, x1, y1\)"),
        ({"box": "left"}, "box is 'left'"),
        ({"box": (0, 0, 9, 9), "boxes": [(0, 0, 9, 9)]}, "box was given with many prompts"),
        ({"boxes": 3}, "boxes is 3"),
        ({"boxes": "left"}, "boxes is 'left'"),
        ({"boxes": (0, 0, 9, 9)}, "which is one box, expected a list of boxes; pass it as box"),
        (
            {"points": [(335, 44)], "boxes": [(0, 0, 9, 9)]},
            r"points is \[\(335, 44\)\], which are the points of one object, expected with boxes "
            "a list of points for each box",
        ),
        (
            {"points": np.array([[3, 4], [5, 6]]), "boxes": [(0, 0, 9, 9)] * 2},
            "the points of one object, expected with boxes a list of points for each box",
        ),
        ({"boxes": [(0, 0, 9, 9), (5, 5, 1, 1)]}, r"boxes\[1\] is"),
        (
            {"boxes": [(0, 0, 9, 9)], "points": [[(1, 1)]] * 2},
            "points has 2 entries, expected .* 1",
        ),
        ({"boxes": [(0, 0, 9, 9)], "labels": [[1]]}, r"labels\[0\] has 1 entries for 0 points"),
        ({"points": [(1, 1)], "refine": np.zeros((256, 256))}, "refine is of type ndarray"),
        (
            {"points": [(1, 1)], "refine": mask((9, 9))},
            r"refine is a mask of an image of \(9, 9\)",
        ),
        ({"boxes": [(0, 0, 9, 9)] * 2, "refine": mask()}, "refine has one, expected a list of 2"),
    ],
)
def test_a_wrong_prompt_is_refused_and_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        build(SIZE, **arguments)
