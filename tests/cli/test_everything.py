"""`hqsam everything`, against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import EverythingOptions, HQSam
from PIL import Image
from pycocotools.coco import COCO

from tests.cli.command import hqsam

ALL = [
    "--points-per-side=4",
    "--pred-iou-thresh=0",
    "--stability-score-thresh=0",
    "--box-nms-thresh=1",
]


def test_a_coco_file_and_an_overlay_are_written(
    folder: Path, sam: HQSam, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--coco", "out/objects.json", "--overlay", "out/{stem}-all.png")
    assert hqsam("everything", "photo.png", *ALL, *files) == 0
    assert capsys.readouterr().out == "photo.png: 16 objects\n"
    options = EverythingOptions(
        points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1
    )
    masks = sam.open("photo.png").everything(options)
    written = COCO(folder / "out" / "objects.json")
    assert written.loadImgs(1)[0] == {
        "id": 1,
        "file_name": "photo.png",
        "height": 200,
        "width": 300,
    }
    for annotation, mask in zip(written.loadAnns(written.getAnnIds()), masks, strict=True):
        assert np.array_equal(written.annToMask(annotation), mask.array)
        x0, y0, x1, y1 = mask.box or (0, 0, 0, 0)
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert (annotation["area"], annotation["category_id"]) == (mask.area, 1)
    with Image.open(folder / "out" / "photo-all.png") as image:
        assert (image.mode, image.size) == ("RGB", (300, 200))


def test_a_deep_image_is_searched_and_drawn_within_the_range(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.asarray(Image.open("photo.png").convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 16).save("scan.png")
    assert hqsam("everything", "scan.png", *ALL) == 1
    assert "--value-range 0,4095" in capsys.readouterr().err
    flags = ("--value-range", "0,4080", "--overlay", "{stem}-all.png")
    assert hqsam("everything", "scan.png", *ALL, *flags) == 0
    assert capsys.readouterr().out == "scan.png: 16 objects\n"
    with Image.open("scan-all.png") as drawn:
        assert np.asarray(drawn).max() > 200


def test_records_are_printed_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hqsam("everything", "photo.png", *ALL, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == list(range(16))
    assert lines[0].keys() > {"image", "segmentation", "area", "bbox", "stability_score"}


def test_an_image_that_fails_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("everything", "nothing.png", "photo.png", *ALL, "--coco", "all.json") == 1
    printed = capsys.readouterr()
    assert printed.out == "photo.png: 16 objects\n"
    assert "nothing.png cannot be read: No such file" in printed.err
    assert printed.err.count("\n") == 1
    assert len(COCO(folder / "all.json").imgs) == 1


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--points-per-side", "0"], "points_per_side is 0, expected 1 to 256", 1),
        (["--points-per-side", "x"], "--points-per-side", 2),
        (["--overlay", "overlay"], "--overlay is 'overlay', expected an ending", 2),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    status: int,
) -> None:
    assert hqsam("everything", "photo.png", *arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
