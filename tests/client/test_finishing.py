"""Finished masks: the pixels of `Mask`, in the formats of pycocotools and Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hqsam_client.mask import Mask
from hqsam_client.shared.finishing import finish, mask_bands
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.run_lengths import RunLengths, RunLengthsError
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from tests.client.test_geometry import SIZES, blobs

LOGITS: dict[str, NDArray[np.float32]] = {
    "blobs": blobs(),
    "noise": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32),
    "empty": np.full((256, 256), -1, np.float32),
    "full": np.ones((256, 256), np.float32),
    "a corner": np.pad(np.ones((9, 9), np.float32), ((0, 247), (0, 247)), constant_values=-1),
}


@pytest.mark.parametrize("size", [*SIZES, (3, 5), (16, 17), (33, 300), (8192, 2)], ids=str)
@pytest.mark.parametrize("name", LOGITS)
def test_a_finished_mask_is_that_of_the_client(name: str, size: Size) -> None:
    mask = Mask(LOGITS[name], 0.5, size)
    runs, png = finish(LOGITS[name], size, png=True)
    encoded = coco.encode(np.asfortranarray(mask.array.view(np.uint8)))
    assert runs.text() == encoded["counts"]
    assert (runs.box, runs.area) == (mask.box, mask.area)
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "1"
        np.testing.assert_array_equal(np.asarray(image), mask.array)


@pytest.mark.parametrize("size", [*SIZES, (3, 5), (33, 300), (8192, 2)], ids=str)
@pytest.mark.parametrize("name", LOGITS)
def test_run_lengths_give_their_mask_back(name: str, size: Size) -> None:
    mask = Mask(LOGITS[name], 0.5, size)
    read = RunLengths.read(RunLengths.of_mask(mask.array).text(), size)
    np.testing.assert_array_equal(read.mask(), mask.array)
    assert read.mask().flags.c_contiguous
    assert (read.box, read.area) == (mask.box, mask.area)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bands_have_each_row_once(size: Size) -> None:
    rows = [(it.start, it.stop) for it, _ in mask_bands(blobs(), size)]
    assert [start for start, _ in rows] == [0, *(stop for _, stop in rows[:-1])]
    assert rows[-1][1] == size[0]


@pytest.mark.parametrize(
    "text",
    [b"", b"0", b"oooooooo0", b"\x00", b"\xff0", b"d0P", b"`0", b"30", b"3000?", b"30O", b"d1" * 9],
)
def test_run_lengths_that_make_no_sense_are_refused(text: bytes) -> None:
    with pytest.raises(RunLengthsError):
        RunLengths.read(text, (10, 10))


def test_a_mask_of_too_many_runs_is_given_up_before_it_is_done() -> None:
    with pytest.raises(RunLengthsError, match="more than 100 runs"):
        finish(LOGITS["noise"], (500, 500), most_runs=100)
