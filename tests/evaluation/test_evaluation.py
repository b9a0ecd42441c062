"""Scores are those of the papers, and each image is scored against its own mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hqsam_client.errors import OptionError
from hqsam_evaluation.data_set import find_pairs, read_objects
from hqsam_evaluation.measures import boundary_iou, iou, next_click
from hqsam_evaluation.scores import Scores, summary
from numpy.typing import NDArray
from PIL import Image


def square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((100, 120), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def test_iou_counts_pixels() -> None:
    assert iou(square(10, 10, 20), square(10, 20, 20)) == pytest.approx(200 / 600)
    assert iou(square(10, 10, 20), square(60, 60, 20)) == 0
    nothing = np.zeros((3, 3), np.bool_)
    assert iou(nothing, nothing) == 1


@pytest.mark.parametrize("seed", range(5))
def test_boundary_iou_is_that_of_repeated_erosion_as_the_paper_defines_it(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def blob() -> NDArray[np.bool_]:
        noise = cv2.GaussianBlur(rng.standard_normal((150, 200)), (0, 0), 12)
        return np.asarray(noise > 0.01)

    def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        height, width = mask.shape
        distance = round(0.02 * float(np.hypot(height, width)))
        padded = np.pad(mask.astype(np.uint8), 1)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
        return np.asarray(mask & (eroded == 0))

    mask, truth = blob(), blob()
    assert mask[:, 0].any() or mask[0].any()  # touches the image's edge, a contour too
    assert boundary_iou(mask, truth) == iou(boundary(mask), boundary(truth))


def test_the_next_click_is_the_middle_pixel_of_the_deepest_error() -> None:
    # Coordinates count pixels: the centre of column 20 is x = 20. The model adds the half.
    truth = square(10, 10, 21)
    assert next_click(np.zeros_like(truth), truth) == (20, 20, 1)
    # A thin surplus has more pixels than the missing corner, and is less deep.
    mask = truth.copy()
    mask[20:31, 20:31] = False
    mask[95:97] = True
    assert next_click(mask, truth) == (25, 25, 1)
    assert next_click(truth | square(50, 50, 31), truth) == (65, 65, 0)
    assert next_click(truth, truth) is None


def test_a_click_on_a_single_pixel_is_that_pixel() -> None:
    truth = np.zeros((9, 12), np.bool_)
    truth[3, 7] = True
    assert next_click(np.zeros_like(truth), truth) == (7, 3, 1)


def test_a_target_that_is_not_reached_counts_as_all_clicks_and_as_a_failure() -> None:
    scores = [Scores(0.9, 0.8, [0.5, 0.96]), Scores(0.7, 0.6, [0.1, 0.2, 0.87])]
    means = summary(scores, clicks=3)
    assert means["box_iou"] == 0.8
    assert means["box_boundary_iou"] == 0.7
    assert means["iou_after_clicks"] == {"1": 0.3, "2": 0.58, "3": 0.915}
    assert (means["clicks_to_85"], means["failures_at_85"]) == (2.5, 0)
    assert (means["clicks_to_90"], means["failures_at_90"]) == (2.5, 1)
    assert (means["clicks_to_95"], means["failures_at_95"]) == (2.5, 1)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder: Path) -> list[tuple[str, str]]:
    return [
        (str(image.relative_to(folder)), str(mask.relative_to(folder)))
        for image, mask in find_pairs(folder)
    ]


def test_images_and_masks_are_found_in_the_usual_folders(tmp_path: Path) -> None:
    touch(tmp_path, "im/b.jpg", "im/a.PNG", "im/notes.txt", "gt/a.png", "gt/b.PNG")
    assert names(tmp_path) == [("im/a.PNG", "gt/a.png"), ("im/b.jpg", "gt/b.PNG")]
    assert find_pairs(tmp_path, "im", "gt") == find_pairs(tmp_path)
    with pytest.raises(OptionError, match="elsewhere is not a folder"):
        find_pairs(tmp_path, "im", "elsewhere")


def test_images_and_masks_may_share_a_folder_whatever_the_case_of_their_endings(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a.jpg", "a.png", "b.JPG", "b.PNG")
    assert names(tmp_path) == [("a.jpg", "a.png"), ("b.JPG", "b.PNG")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["images/x.jpg", "images/x.png", "masks/x.png"],
            r"images of the same name: x\.jpg, x\.png",
        ),
        (["images/x.jpg", "masks/x.png", "masks/x.PNG"], r"masks of the same name: x\.PNG, x\.png"),
        (["x.jpg", "x.png", "x.PNG"], r"masks of the same name: x\.PNG, x\.png"),
    ],
)
def test_two_files_of_one_name_are_refused_not_dropped(
    tmp_path: Path, files: list[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message + ".* rename or move one of them"):
        find_pairs(touch(tmp_path, *files))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            r"4 of 4 images have no mask \(a\.jpg, b\.jpg, c\.jpg, \.\.\.\): expected masks of the "
            r"same names in .*, where masks are \.png and images are not; --images and --masks",
        ),
        (
            ["images/a.jpg", "images/b.jpg", "masks/a.png"],
            r"1 of 2 images have no mask \(b\.jpg\): expected masks of the same names in .*/masks",
        ),
        (
            ["images/a.jpg", "masks/a.png", "masks/b.png"],
            r"1 of 2 masks have no image .* in .*/images",
        ),
        (["images/notes.txt"], "has no image files: name the folder of the images with --images"),
    ],
)
def test_what_has_no_partner_is_named_with_what_was_expected(
    tmp_path: Path, files: list[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        find_pairs(touch(tmp_path, *files))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16])
def test_a_mask_is_what_is_brighter_than_half(tmp_path: Path, dtype: type) -> None:
    mask = square(5, 5, 10)
    high = 1 if dtype is np.bool_ else np.iinfo(dtype).max
    path = tmp_path / "mask.png"
    Image.fromarray((mask * high).astype(dtype)).save(path)
    (found,) = read_objects(path, labels=False)
    assert np.array_equal(found, mask)


def test_each_value_of_a_label_map_is_an_object(tmp_path: Path) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[2:8, 2:8], values[10:20, 10:30] = 3, 7
    path = tmp_path / "mask.png"
    image = Image.fromarray(values)
    image.putpalette([17, 3, 99] * 256)
    image.save(path)
    first, second = read_objects(path, labels=True)
    assert np.array_equal(first, values == 3)
    assert np.array_equal(second, values == 7)
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(path)
    with pytest.raises(OptionError, match="holds no object"):
        read_objects(path, labels=True)


def test_a_label_map_read_as_one_object_says_how_to_read_it(tmp_path: Path) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[2:8, 2:8] = 3
    path = tmp_path / "labels.png"
    Image.fromarray(values).save(path)
    with pytest.raises(OptionError, match=r"brightest value is 3 of 255, .* pass --labels"):
        read_objects(path, labels=False)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="cannot be read as a mask"):
        read_objects(path, labels=True)
