"""`hqsam evaluate` reports what it measured on a running server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hqsam_testing.oracle import images
from numpy.typing import NDArray
from PIL import Image

from tests.cli.command import hqsam


def square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((100, 120), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


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
    assert hqsam("evaluate", folder, *flags) == 0
    report = json.loads(report_file.read_text())
    assert [entry["image"] for entry in report["scores"]] == ["1.jpg", "2.jpg"]
    assert all(0 <= entry["box_iou"] <= 1 for entry in report["scores"])
    assert all(1 <= len(entry["click_ious"]) <= 2 for entry in report["scores"])
    boxes = [entry["box_iou"] for entry in report["scores"]]
    assert report["summary"]["box_iou"] == pytest.approx(np.mean(boxes), abs=1e-4)
    assert "2 objects in 2 images" in capsys.readouterr().out


def test_deep_images_are_scored_within_the_range(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for jpeg in (folder / "images").glob("*.jpg"):
        values = np.asarray(Image.open(jpeg).convert("L")).astype(np.uint16) * 4
        Image.fromarray(values).save(jpeg.with_suffix(".png"))
        jpeg.unlink()
    flags = [f"--url={url}", "--timeout=300", "--clicks=0"]
    assert hqsam("evaluate", folder, *flags) == 1
    assert "--value-range 0,511" in capsys.readouterr().err
    assert hqsam("evaluate", folder, *flags, "--percentiles=0,100") == 0
    assert "2 objects in 2 images" in capsys.readouterr().out


def test_an_image_that_fails_does_not_stop_the_others(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "images" / "1.jpg").write_bytes(b"no image")
    flags = [f"--url={url}", "--timeout=300", "--clicks=0"]
    assert hqsam("evaluate", folder, *flags) == 1
    printed = capsys.readouterr()
    assert "hqsam evaluate: 1.jpg: " in printed.err
    assert "1 objects in 1 images" in printed.out
    Image.fromarray(images.draw(600, 400)).save(folder / "images" / "2.png")
    (folder / "images" / "2.jpg").unlink()
    assert hqsam("evaluate", folder, *flags) == 1
    assert "2.png (400, 600)" in capsys.readouterr().err


def test_images_without_a_mask_are_refused_before_anything_is_sent(
    folder: Path, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "masks" / "2.png").unlink()
    assert hqsam("evaluate", folder, f"--url={nobody}") == 1
    assert (
        "hqsam evaluate: 1 of 2 images have no mask (2.jpg): expected masks"
        in capsys.readouterr().err
    )
