"""The search for everything: where it looks, what counts as a duplicate, what a record says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hqsam_client.contract import MAX_PROMPTS
from hqsam_client.errors import OptionError, PromptError
from hqsam_client.everything import EverythingOptions, FoundMask
from hqsam_client.shared.mask_search import Candidate, Search, suppress
from hqsam_client.shared.run_lengths import RunLengths
from hqsam_client.shared.sources import of_upload
from hqsam_client.shared.upload import Upload, prepare

SIZE = (80, 120)


def upload() -> Upload:
    return prepare(np.zeros((*SIZE, 3), np.uint8))


def candidate(
    box: tuple[int, int, int, int], iou: float, size: tuple[int, int] = SIZE
) -> Candidate:
    """Return a rectangle; its last column and row belong to it."""
    mask = np.zeros(size, np.bool_)
    mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return Candidate(RunLengths.of_mask(mask), iou, 0.97, (float(box[0]), float(box[1])))


def test_points_are_the_centres_of_a_grids_cells_row_by_row() -> None:
    (crop,) = Search(of_upload(upload()), EverythingOptions(points_per_side=2)).crops
    assert crop.box == (0, 0, 120, 80)
    assert crop.points.tolist() == [[30, 20], [90, 20], [30, 60], [90, 60]]


def test_batches_have_all_points_in_order() -> None:
    search = Search(of_upload(upload()), EverythingOptions(points_per_side=5, points_per_batch=10))
    batches = search.batches(search.crops[0])
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert np.array_equal(np.concatenate(batches), search.crops[0].points)
    assert search.total == 25


def test_crops_are_those_of_the_authors() -> None:
    # From the authors' generate_crop_boxes for an image of 1500 x 1000 pixels.
    image = prepare(np.zeros((1000, 1500, 3), np.uint8))
    options = EverythingOptions(
        points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=2
    )
    crops = Search(of_upload(image), options).crops
    assert [crop.box for crop in crops[:5]] == [
        (0, 0, 1500, 1000),
        (0, 0, 921, 671),
        (0, 330, 921, 1000),
        (580, 0, 1500, 671),
        (580, 330, 1500, 1000),
    ]
    assert crops[5].box == (0, 0, 503, 378)
    assert crops[-1].box == (999, 624, 1500, 1000)
    assert [len(crop.points) for crop in crops] == [64] + 4 * [16] + 16 * [4]


def test_a_tiny_image_has_no_empty_crops() -> None:
    image = prepare(np.zeros((1, 3, 3), np.uint8))
    crops = Search(of_upload(image), EverythingOptions(points_per_side=2, crop_n_layers=3)).crops
    assert all(min(crop.size) >= 1 for crop in crops)


def test_duplicates_are_those_of_a_plain_non_maximum_suppression() -> None:
    random = np.random.default_rng(0)
    corners = random.integers(0, 60, (300, 2))
    boxes = np.concatenate([corners, corners + random.integers(0, 40, (300, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    scores = random.integers(0, 50, 300).astype(np.float32)  # many are equal

    def iou(one: Any, other: Any) -> float:
        sides = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
        areas = [(it[2] - it[0]) * (it[3] - it[1]) for it in (one, other)]
        union = sum(areas) - sides.prod()
        return float(sides.prod() / union) if union else 0.0

    kept: list[int] = []
    for number in sorted(range(300), key=lambda number: (-scores[number], number)):
        if all(iou(boxes[number], boxes[other]) <= 0.5 for other in kept):
            kept.append(number)
    assert 50 < len(kept) < 250
    assert suppress(boxes, scores, 0.5) == kept


def test_of_duplicates_the_one_of_the_higher_predicted_iou_stays_first() -> None:
    search = Search(of_upload(upload()), EverythingOptions())
    boxes = [(10, 10, 40, 40), (60, 20, 90, 70), (11, 10, 41, 40)]
    found = [candidate(box, iou) for box, iou in zip(boxes, (0.9, 0.92, 0.95), strict=True)]
    search.add(search.crops[0], found)
    masks = search.masks()
    assert [mask.box for mask in masks] == [(11, 10, 42, 41), (60, 20, 91, 71)]
    assert [mask.iou for mask in masks] == [0.95, 0.92]


def test_masks_of_a_crop_are_placed_in_the_image_unless_its_edge_cuts_them() -> None:
    options = EverythingOptions(points_per_side=2, crop_n_layers=1, crop_overlap_ratio=0.0)
    search = Search(of_upload(prepare(np.zeros((200, 400, 3), np.uint8))), options)
    crop = search.crops[4]
    assert crop.box == (200, 100, 400, 200)
    inside, at_the_image_edge = (60, 30, 100, 60), (170, 70, 199, 99)
    found = [
        candidate(box, 0.9, crop.size)
        for box in (inside, at_the_image_edge, (20, 30, 60, 60), (60, 5, 100, 60))
    ]
    search.add(crop, found)
    masks = search.masks()
    assert [mask.box for mask in masks] == [(260, 130, 301, 161), (370, 170, 400, 200)]
    assert masks[0].array.shape == (200, 400)
    assert masks[0].array[130:161, 260:301].all()
    assert masks[0].area == 31 * 41
    assert masks[0].point == (260, 130)


def test_of_duplicates_in_two_crops_the_one_of_the_smaller_crop_stays() -> None:
    options = EverythingOptions(points_per_side=2, crop_n_layers=1, crop_overlap_ratio=0.0)
    search = Search(of_upload(prepare(np.zeros((200, 400, 3), np.uint8))), options)
    search.add(search.crops[0], [candidate((260, 130, 300, 160), 0.99, (200, 400))])
    search.add(search.crops[4], [candidate((60, 30, 100, 60), 0.9, search.crops[4].size)])
    (mask,) = search.masks()
    assert (mask.iou, mask.crop_box) == (0.9, (200, 100, 400, 200))


def test_small_regions_are_removed_and_what_becomes_a_duplicate_by_that() -> None:
    search = Search(of_upload(upload()), EverythingOptions(min_mask_region_area=30))
    speck = np.zeros(SIZE, np.bool_)
    speck[10:41, 10:41] = True
    same = RunLengths.of_mask(speck)
    speck[70:73, 100:103] = True  # far away, so the boxes differ
    speck[20:22, 20:22] = False
    spoilt = Candidate(RunLengths.of_mask(speck), 0.99, 0.97, (10.0, 10.0))
    search.add(search.crops[0], [spoilt, Candidate(same, 0.9, 0.97, (11.0, 11.0))])
    (mask,) = search.masks()
    assert mask.iou == 0.9  # the one that needed no cleaning
    search = Search(of_upload(upload()), EverythingOptions(min_mask_region_area=30))
    search.add(search.crops[0], [spoilt])
    (mask,) = search.masks()
    assert np.array_equal(mask.array, same.mask())
    assert mask.stability_score == 0.97


def test_nothing_found_is_an_empty_list() -> None:
    search = Search(of_upload(upload()), EverythingOptions(min_mask_region_area=9))
    search.add(search.crops[0], [])
    assert search.masks() == []


def found_mask() -> FoundMask:
    runs = candidate((3, 2, 6, 4), 0.9).runs
    return FoundMask(
        runs,
        0.9,
        SIZE,
        None,
        stability_score=0.97,
        point=(4.5, 3.5),
        crop_box=(0, 0, 120, 80),
    )


def test_a_record_says_what_the_authors_records_say() -> None:
    record = found_mask().record()
    assert np.array_equal(record.pop("segmentation"), found_mask().array)
    assert record == {
        "area": 12,
        "bbox": [3, 2, 3, 2],
        "predicted_iou": 0.9,
        "point_coords": [[4.5, 3.5]],
        "stability_score": 0.97,
        "crop_box": [0, 0, 120, 80],
    }


def test_a_record_has_run_lengths_in_the_form_that_is_asked_for() -> None:
    mask = found_mask()
    counts = mask.record("uncompressed_rle")["segmentation"]["counts"]
    assert counts == [242, 3, 77, 3, 77, 3, 77, 3, 9115]
    assert mask.record("coco_rle")["segmentation"] == mask.rle()
    with pytest.raises(OptionError, match="output_mode is 'png', expected one of binary_mask"):
        mask.record("png")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "either points_per_side or point_grids"),
        ({"point_grids": [np.zeros((1, 2))]}, "either points_per_side or point_grids"),
        ({"points_per_side": 0}, "points_per_side is 0, expected 1 to 256"),
        ({"points_per_batch": MAX_PROMPTS + 1}, "points_per_batch is 257, expected 1 to 256"),
        ({"crop_n_layers": -1}, "crop_n_layers is -1, expected 0 to 4"),
        ({"stability_score_offset": -0.5}, "stability_score_offset is -0.5, expected 0 or more"),
        ({"pred_iou_thresh": float("nan")}, "pred_iou_thresh is nan, expected a finite number"),
        ({"crop_overlap_ratio": 1.5}, "crop_overlap_ratio is 1.5, expected 0 to 1"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1},
            "point_grids has 1 grids, expected one for each of 2",
        ),
        (
            {"points_per_side": None, "point_grids": [np.full((1, 2), 2.0)]},
            r"expected \[N, 2\]: \(x, y\) from 0 to 1",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        EverythingOptions(**options)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(PromptError, match="mode is 'worst'"):
        EverythingOptions(mode="worst")  # type: ignore[arg-type]
