"""The functions with the real `supervision`, and its COCO file in the real `pycocotools`.

They need ``HQSAM_URL``, the address of a server with the small model; see ../../README.md.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from hqsam_client import HQSam, HQSamError, ImageError
from hqsam_supervision import masks_for_dataset, masks_for_detections
from pycocotools.coco import COCO

COINS = Path(__file__).parents[3] / "demo" / "coins.png"
BOXES = [(242, 92, 297, 145), (300, 15, 365, 78)]


@pytest.fixture
def sam() -> Iterator[HQSam]:
    with HQSam(os.environ["HQSAM_URL"]) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two images with boxes, and one image without any."""
    (tmp_path / "images").mkdir()
    names = ["a.png", "b.png", "empty.png"]
    for name in names:
        shutil.copy(COINS, tmp_path / "images" / name)
    images = [
        {"id": number, "file_name": name, "width": 384, "height": 303}
        for number, name in enumerate(names)
    ]
    annotations = [
        {
            "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [],
        }
        for number, (x0, y0, x1, y1) in enumerate(BOXES)
    ]  # fmt: skip
    (tmp_path / "boxes.json").write_text(
        json.dumps(
            {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": 1, "name": "coin", "supercategory": "none"}],
            }
        )
    )
    return tmp_path


def load(folder: Path) -> sv.DetectionDataset:
    return sv.DetectionDataset.from_coco(str(folder / "images"), str(folder / "boxes.json"))


def test_a_data_set_of_boxes_becomes_one_of_masks(folder: Path, sam: HQSam) -> None:
    dataset = masks_for_dataset(load(folder), sam)
    expected = {
        name: sam.open(COINS).segment(box=box, mode="hq+sam").array
        for name, box in zip(("a.png", "b.png"), BOXES, strict=True)
    }
    for path, detections in dataset.annotations.items():
        name = Path(path).name
        assert len(detections) == (name in expected)
        assert name not in expected or np.array_equal(detections.mask[0], expected[name])

    dataset.as_coco(annotations_path=str(folder / "masks.json"))
    coco = COCO(folder / "masks.json")
    assert [it["name"] for it in coco.loadCats(coco.getCatIds())] == ["coin"]
    assert len(coco.getImgIds()) == 3
    names = {it["id"]: it["file_name"] for it in coco.loadImgs(coco.getImgIds())}
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = expected[names[annotation["image_id"]]]
        assert annotation["area"] == mask.sum()
        found = coco.annToMask(annotation).astype(bool)
        # supervision writes outlines through pixel centres, which lose half a pixel around.
        assert (found & mask).sum() / (found | mask).sum() > 0.9


def test_the_readme_does_what_it_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    program = readme.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    exec(program.replace("localhost:8001", os.environ["HQSAM_URL"]), {})  # noqa: S102
    assert len(COCO("masks.json").getAnnIds()) == len(BOXES)


def test_detections_keep_what_they_have(sam: HQSam) -> None:
    detections = sv.Detections(
        xyxy=np.array(BOXES, float), confidence=np.array([0.9, 0.5]), class_id=np.array([3, 4]),
        data={"name": np.array(["a", "b"])},
    )  # fmt: skip
    found = masks_for_detections(detections, COINS, sam, mode="hq")
    masks = sam.open(COINS).segment(boxes=BOXES)
    assert np.array_equal(found.mask, [it.array for it in masks])
    assert found.confidence.tolist() == [0.9, 0.5] and found.data["name"].tolist() == ["a", "b"]
    assert detections.mask is None
    assert masks_for_detections(sv.Detections.empty(), COINS, sam).mask is None


def test_an_image_that_fails_is_named_and_the_others_have_masks(folder: Path, sam: HQSam) -> None:
    (folder / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image"):
        masks_for_dataset(load(folder), sam)
    failures: list[tuple[str, HQSamError]] = []
    dataset = masks_for_dataset(load(folder), sam, failed=lambda *it: failures.append(it))
    ((path, error),) = failures
    assert path.endswith("a.png") and isinstance(error, ImageError)
    assert [Path(it).name for it in dataset.image_paths] == ["b.png", "empty.png"]
