"""The plug-in's view of napari's data; with the real napari in its own tests."""

from __future__ import annotations

import numpy as np
import pytest
from hqsam_client import ImageError, PromptError
from hqsam_napari import prompts


def test_a_plane_is_sent_as_it_is_shown() -> None:
    grey = np.array([[100, 150, 300]], np.uint16)
    assert prompts.rgb(grey, (100, 200))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert prompts.rgb(np.array([[np.nan]]), (0, 1)).tolist() == [[[0, 0, 0]]]
    colours = np.array([[[0.0, 0.5, 1.0, 0.2]]])
    assert prompts.rgb(colours, (0, 1)).tolist() == [[[0, 127, 255]]]
    with pytest.raises(ImageError, match="expected one plane"):
        prompts.rgb(np.zeros((2, 2, 2, 2)), (0, 1))


def test_rows_and_columns_become_x_and_y() -> None:
    pairs, labels = prompts.points(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([False, True]))
    assert (pairs, labels) == ([(2.0, 1.0), (4.0, 3.0)], [1, 0])
    assert prompts.box(np.array([[9, 1], [9, 5], [2, 5], [2, 1]])) == (1.0, 2.0, 5.0, 9.0)


def test_points_beside_an_object_need_one_on_it_or_a_box() -> None:
    prompts.check_prompt([], [], None)
    prompts.check_prompt([(1, 1)], [0], (0, 0, 2, 2))
    with pytest.raises(PromptError, match="add a point on the object"):
        prompts.check_prompt([(1, 1)], [0], None)
