"""The masks of the small model are those of the objects that the prompts name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hqsam_cli.main import main
from hqsam_client import EverythingOptions, HQSam, contract
from hqsam_evaluation.measures import iou
from hqsam_export import onnx_files, repository
from hqsam_server import TritonServer, Tuning, small_model
from hqsam_testing.coins import COINS, LABELS
from PIL import Image

from tests.small import distinct
from tests.small.connecting import connect
from tests.small.distinct import Scene

EACH = 0.75
"""Least IoU of each mask."""

CLICK, BOX, THREE_CLICKS = 0.80, 0.85, 0.88
"""Least mean IoU of masks from one click, a box, and three clicks."""

EVERYTHING = Path(__file__).with_name("everything.json")

SIZES = [
    (1024, 768), (640, 480), (900, 1400), (1600, 500), (400, 1100), (96, 64), (4000, 3000),
    (3000, 4000),
]  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes of all sizes, upright and turned."""
    return [
        distinct.draw(seed, width, height, rotated)
        for seed, (width, height) in enumerate(SIZES)
        for rotated in (False, True)
    ]


def test_a_click_gives_the_object_that_was_clicked(sam: HQSam, scenes: list[Scene]) -> None:
    found = []
    for scene in scenes:
        image = sam.open(scene.file)
        assert image.size == scene.masks.shape[1:]
        masks = image.segment([[scene.click(index)] for index in range(len(scene.masks))])
        found += [iou(mask.array, truth) for mask, truth in zip(masks, scene.masks, strict=True)]
    assert min(found) >= EACH
    assert np.mean(found) >= CLICK


def test_a_box_gives_the_object_in_it(sam: HQSam, scenes: list[Scene]) -> None:
    found = []
    for scene in scenes:
        masks = sam.open(scene.file).segment(
            boxes=[scene.box(index) for index in range(len(scene.masks))]
        )
        found += [iou(mask.array, truth) for mask, truth in zip(masks, scene.masks, strict=True)]
    assert min(found) >= EACH
    assert np.mean(found) >= BOX


def test_coins_of_a_photograph(sam: HQSam) -> None:
    labels = np.asarray(Image.open(LABELS))
    masks = np.stack([labels == value for value in range(1, int(labels.max()) + 1)])
    coins = Scene(COINS.read_bytes(), masks)
    image, numbers = sam.open(coins.file), range(len(masks))
    clicked = image.segment([[coins.click(number)] for number in numbers])
    boxed = image.segment(boxes=[coins.box(number) for number in numbers])
    assert np.mean([iou(m.array, coin) for m, coin in zip(clicked, masks, strict=True)]) >= 0.70
    assert np.mean([iou(m.array, coin) for m, coin in zip(boxed, masks, strict=True)]) >= BOX


@pytest.mark.slow
def test_everything_is_what_the_authors_generator_finds(sam: HQSam) -> None:
    """The records are those of the authors' code, driven by this model's logits in fp32."""
    golden = json.loads(EVERYTHING.read_text("utf-8"))
    masks = sam.open(COINS).everything(EverythingOptions(**golden["options"]))
    records = [mask.record("coco_rle") for mask in masks]
    assert [it["point_coords"] for it in records] == [
        it["point_coords"] for it in golden["records"]
    ]
    for record, expected in zip(records, golden["records"], strict=True):
        assert np.abs(np.subtract(record["bbox"], expected["bbox"])).max() <= 1
        assert record["crop_box"] == expected["crop_box"]
        assert record["area"] == pytest.approx(expected["area"], rel=0.01)
        for score in ("predicted_iou", "stability_score"):
            assert record[score] == pytest.approx(expected[score], abs=0.003)


def test_two_clicks_take_two_objects_and_a_negative_one_gives_one_back(sam: HQSam) -> None:
    kept = []
    for seed in range(4):
        scene = distinct.draw(seed, 1024, 768)
        image = sam.open(scene.file)
        one, other = scene.click(0), scene.click(1)
        both = image.segment(points=[one, other]).array
        negative = image.segment(points=[one, other], labels=[1, 0]).array
        assert both[int(other[1]), int(other[0])]
        assert not negative[int(other[1]), int(other[0])]
        kept.append(iou(negative, scene.masks[0]))
    assert min(kept) >= EACH


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_gives_the_same_masks(
    sam: HQSam, scenes: list[Scene], tmp_path: Path, precision: str
) -> None:
    folder, tuning = None, Tuning(precision=precision)
    if precision == "fp16":
        folder, tuning = tmp_path / "model_repository", Tuning(precision="fp32")
        small_model.write(folder)
        onnx_files.lower(folder / contract.ENCODER.name / "1" / "model.onnx")
    agreement = []
    with TritonServer(folder, tuning=tuning) as server, connect(server) as lowered:
        for scene in scenes:
            prompts = [[scene.click(index)] for index in range(len(scene.masks))]
            expected, found = (
                client.open(scene.file).segment(prompts) for client in (sam, lowered)
            )
            agreement += [iou(a.array, b.array) for a, b in zip(expected, found, strict=True)]
    assert np.mean(agreement) >= 0.99


def test_its_files_are_small_and_keep_the_contract(tmp_path: Path) -> None:
    files = [path for path in small_model.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    for spec in (contract.ENCODER, contract.DECODER, contract.FEATURES, contract.PROMPT_DECODER):
        onnx_files.check(small_model.FOLDER / spec.name / "1" / "model.onnx", spec)
    manifest = repository.read_manifest(small_model.FOLDER)
    for name, digest in manifest["files"].items():
        assert repository.file_digest(small_model.FOLDER / name) == digest


def test_hqsam_small_writes_a_repository_that_validates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    assert main(["small", str(folder)]) == 0
    assert main(["validate", str(folder)]) == 0
    assert main(["small", str(folder)]) == 1
    assert "is not empty" in capsys.readouterr().err
