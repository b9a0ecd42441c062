"""Scores are those of the papers, and `hqsam evaluate` reports what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hqsam_cli.commands.evaluate import find_pairs, read_objects
from hqsam_cli.main import main
from hqsam_client.errors import OptionError
from hqsam_evaluation import measures
from hqsam_evaluation.measures import Scores, boundary_iou, iou, next_click
from hqsam_testing.oracle import images
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


def test_the_next_click_is_the_centre_of_the_deepest_error() -> None:
    truth = square(10, 10, 21)
    assert next_click(np.zeros_like(truth), truth) == (20.5, 20.5, 1)
    # A thin surplus has more pixels than the missing corner, and is less deep.
    mask = truth.copy()
    mask[20:31, 20:31] = False
    mask[95:97] = True
    assert next_click(mask, truth) == (25.5, 25.5, 1)
    assert next_click(truth | square(50, 50, 31), truth) == (65.5, 65.5, 0)
    assert next_click(truth, truth) is None


def test_a_target_that_is_not_reached_counts_as_all_clicks_and_as_a_failure() -> None:
    scores = [Scores(0.9, 0.8, [0.5, 0.96]), Scores(0.7, 0.6, [0.1, 0.2, 0.87])]
    means = measures.summary(scores, clicks=3)
    assert means["box_iou"] == 0.8
    assert means["box_boundary_iou"] == 0.7
    assert means["iou_after_clicks"] == {"1": 0.3, "2": 0.58, "3": 0.915}
    assert (means["clicks_to_85"], means["failures_at_85"]) == (2.5, 0)
    assert (means["clicks_to_90"], means["failures_at_90"]) == (2.5, 1)
    assert (means["clicks_to_95"], means["failures_at_95"]) == (2.5, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of squares, with their masks in another folder."""
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for number in (1, 2):
        mask = square(20, 10 * number, 40)
        image = np.where(mask[..., None], [250, 30, 40], [10, 90, 60]).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "set" / "images" / f"{number}.jpg")
        Image.fromarray(mask.view(np.uint8) * np.uint8(255)).save(
            tmp_path / "set" / "masks" / f"{number}.png"
        )
    return tmp_path / "set"


def test_the_report_holds_every_score_and_their_means(
    url: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_file = tmp_path / "report.json"
    flags = [f"--url={url}", "--timeout=300", "--clicks=2", f"--report={report_file}"]
    assert main(["evaluate", str(folder), *flags]) == 0
    report = json.loads(report_file.read_text())
    assert [entry["image"] for entry in report["scores"]] == ["1.jpg", "2.jpg"]
    assert all(0 <= entry["box_iou"] <= 1 for entry in report["scores"])
    assert all(1 <= len(entry["click_ious"]) <= 2 for entry in report["scores"])
    boxes = [entry["box_iou"] for entry in report["scores"]]
    assert report["summary"]["box_iou"] == pytest.approx(np.mean(boxes), abs=1e-4)
    assert "2 objects in 2 images" in capsys.readouterr().out


def test_an_image_that_fails_does_not_stop_the_others(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "images" / "1.jpg").write_bytes(b"no image")
    flags = [f"--url={url}", "--timeout=300", "--clicks=0"]
    assert main(["evaluate", str(folder), *flags]) == 1
    printed = capsys.readouterr()
    assert "hqsam evaluate: 1.jpg: " in printed.err
    assert "1 objects in 1 images" in printed.out
    Image.fromarray(images.draw(600, 400)).save(folder / "images" / "2.png")
    (folder / "images" / "2.jpg").unlink()
    assert main(["evaluate", str(folder), *flags]) == 1
    assert "its mask has (100, 120) pixels" in capsys.readouterr().err


def test_images_without_a_mask_are_refused_before_anything_is_sent(
    folder: Path, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "masks" / "2.png").unlink()
    assert main(["evaluate", str(folder), f"--url={nobody}"]) == 1
    assert "have no partner of the same name, '2' for one" in capsys.readouterr().err


def test_images_and_masks_may_share_a_folder(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        path.rename(folder / "images" / path.name)
    shared = folder / "images"
    assert find_pairs(shared) == [(shared / f"{i}.jpg", shared / f"{i}.png") for i in (1, 2)]
    with pytest.raises(OptionError, match="is not a folder"):
        find_pairs(folder, "images", "elsewhere")


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
