"""The examples do what they say."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing import command
from hqsam_testing.coins import COINS
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from tests.docs.pages import ROOT

COIN, BESIDE, BOX = (335, 44), (346, 92), (242, 92, 297, 145)


@pytest.fixture
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S) as client:
        yield client


def run(
    name: str, *arguments: str | Path, folder: Path, server: TritonServer
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, in a folder."""
    return command.run(
        [sys.executable, ROOT / "examples" / name, *arguments, f"--url={server.grpc_url}"],
        cwd=folder,
    )


def test_a_folder_is_labelled_in_coco_and_as_images(
    server: TritonServer, sam: HQSam, folder: Path
) -> None:
    done = run(
        "label_folder.py", "images", "prompts.jsonl", "--masks=masks",
        folder=folder, server=server,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((folder / "coco.json").read_text())
    (image,) = written["images"]
    assert (image["file_name"], image["height"], image["width"]) == ("coins.png", 303, 384)
    assert written["categories"] == [{"id": 1, "name": "coin"}]
    image = sam.open(COINS)
    expected = [image.segment(points=[COIN]), image.segment(box=BOX)]
    for index, (annotation, mask) in enumerate(zip(written["annotations"], expected, strict=True)):
        found = coco.decode(annotation["segmentation"]).astype(bool)
        assert agreement(found, mask.array) > 0.99
        assert annotation["area"] == found.sum()
        drawn = np.asarray(Image.open(folder / "masks" / f"coins-{index}.png")) > 0
        assert np.array_equal(drawn, found)


def test_an_image_that_cannot_be_labelled_is_named_and_the_others_are(
    server: TritonServer, folder: Path
) -> None:
    (folder / "images" / "broken.png").write_bytes(b"no image")
    with (folder / "prompts.jsonl").open("a") as prompts:
        prompts.write('\n{"image": "broken.png", "category": "none", "points": [[1, 1]]}')
    done = run("label_folder.py", "images", "prompts.jsonl", folder=folder, server=server)
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    written = json.loads((folder / "coco.json").read_text())
    assert len(written["annotations"]) == 2
    assert [image["file_name"] for image in written["images"]] == ["coins.png"]


def test_a_detectors_boxes_get_masks(server: TritonServer, sam: HQSam, folder: Path) -> None:
    weak = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.1}
    beyond = {"image_id": 7, "category_id": 1, "bbox": [-0.5, -0.5, 385, 304], "score": 0.9}
    detections = json.loads((folder / "detections.json").read_text())
    (folder / "detections.json").write_text(json.dumps([*detections, weak, beyond]))
    done = run(
        "boxes_to_masks.py", "detections.json", "instances.json", "images",
        folder=folder, server=server,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    strong, whole = json.loads((folder / "segmentations.json").read_text())
    assert {**detections[0], "segmentation": strong["segmentation"]} == strong
    assert whole["bbox"] == beyond["bbox"]
    found = coco.decode(strong["segmentation"]).astype(bool)
    assert agreement(found, sam.segment(COINS, box=BOX).array) > 0.99


def test_the_service_answers_with_the_mask(service: str, sam: HQSam) -> None:
    query = f"point={COIN[0]},{COIN[1]}&background={BESIDE[0]},{BESIDE[1]}"
    request = urllib.request.Request(f"http://{service}/mask?{query}", COINS.read_bytes())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        found = np.asarray(Image.open(io.BytesIO(answer.read()))) > 0
    expected = sam.segment(COINS, points=[COIN, BESIDE], labels=[1, 0]).array
    assert agreement(found, expected) > 0.99


@pytest.mark.parametrize(
    ("query", "body"), [("", COINS.read_bytes()), ("point=1", b"x"), ("point=1,1", b"no image")]
)
def test_the_service_says_what_is_wrong_with_a_request(
    service: str, query: str, body: bytes
) -> None:
    request = urllib.request.Request(f"http://{service}/mask?{query}", body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    assert caught.value.code == 400
    assert json.load(caught.value)["error"]


def agreement(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    """Return the share of pixels that two masks agree in."""
    return float((found == expected).mean())
