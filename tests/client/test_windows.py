"""Windows of large images: the grid, which prompt goes where, and masks back in the whole image."""

from __future__ import annotations

import asyncio
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hqsam_client import (
    AsyncHQSam,
    EverythingOptions,
    HQSam,
    ImageError,
    Mask,
    OptionError,
    PromptError,
    WindowMask,
    Windows,
)
from hqsam_client.shared.prompt_encoding import check
from hqsam_client.shared.run_lengths import RunLengths
from hqsam_client.shared.windowing import groups, is_small, is_still_small, zoom_prompt, zoomed
from numpy.typing import NDArray
from PIL import Image

SIZE = (900, 1400)
GRID = Windows(512, 128)


@pytest.fixture
def large(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image that no other test has sent, uint8 [900, 1400, 3]."""
    return np.tile(array, (5, 5, 1))[: SIZE[0], : SIZE[1]].copy()


@pytest.mark.parametrize("size", [SIZE, (512, 512), (513, 2000), (100, 80), (20_000, 300)])
def test_windows_cover_the_image_and_overlap(size: tuple[int, int]) -> None:
    windows = GRID.grid(size)
    seen = np.zeros(size, np.uint8)
    for x0, y0, x1, y1 in windows:
        assert (x1 - x0, y1 - y0) == (min(512, size[1]), min(512, size[0]))
        seen[y0:y1, x0:x1] += 1
    assert seen.all()
    for axis in (0, 1):
        starts = sorted({window[axis] for window in windows})
        assert all(later - start <= 512 - 128 for start, later in pairwise(starts))


@pytest.mark.parametrize(("size", "overlap"), [(63, 0), (512, 512), (512, -1)])
def test_windows_that_make_no_grid_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(OptionError, match="expected"):
        Windows(size, overlap)


def test_a_mask_of_a_window_is_the_same_pixels_in_the_whole_image() -> None:
    rng = np.random.default_rng(3)
    for density in (0, 0.1, 0.5, 0.9, 1):
        for _ in range(60):
            height, width = (int(it) for it in rng.integers(1, 300, 2))
            x0, x1 = sorted(int(it) for it in rng.choice(width + 1, 2, replace=False))
            y0, y1 = sorted(int(it) for it in rng.choice(height + 1, 2, replace=False))
            mask = rng.random((height, width)) < density
            whole = RunLengths.of_mask(mask)
            part = mask[y0:y1, x0:x1].copy()
            assert np.array_equal(whole.mask((x0, y0, x1, y1)), part)
            expected = np.zeros_like(mask)
            expected[y0:y1, x0:x1] = part
            placed = RunLengths.of_mask(part).placed((x0, y0), (height, width))
            assert np.array_equal(placed.counts, RunLengths.of_mask(expected).counts)


def test_a_mask_is_cut_out_without_the_rest() -> None:
    mask = np.zeros((300, 400), np.bool_)
    mask[0:10, 390:400] = True
    for found in (Mask(RunLengths.of_mask(mask), 0.5, (300, 400)), of_logits()):
        part, (x, y) = found.cutout()
        height, width = part.shape
        assert np.array_equal(part, found.array[y : y + height, x : x + width])
        assert part.sum() == found.area
    empty = Mask(RunLengths.of_mask(np.zeros((30, 40), np.bool_)), 0.5, (30, 40))
    assert empty.cutout()[0].tolist() == [[False]]
    assert empty.polygons() == []


def of_logits() -> Mask:
    logits = np.full((256, 256), -1, np.float32)
    logits[:20, 230:] = 1
    return Mask(logits, 0.5, (300, 400))


def windows_of(**prompts: Any) -> list[tuple[int, int, int, int]]:
    checked, _ = check(SIZE, **prompts)
    found: dict[int, tuple[int, int, int, int]] = {}
    for group in groups(checked, SIZE, GRID.grid(SIZE)):
        found |= dict.fromkeys(group.numbers, group.window)
    return [found[number] for number in sorted(found)]


def test_a_click_goes_to_the_window_whose_centre_is_nearest() -> None:
    grid = GRID.grid(SIZE)
    for point in [(0, 0), (1399, 899), (700, 450), (310, 460), (1000, 20)]:
        (window,) = windows_of(points=[point])
        centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in grid]
        distances = [np.hypot(x - point[0], y - point[1]) for x, y in centres]
        assert window == grid[int(np.argmin(distances))]


def test_a_prompt_that_no_window_holds_gets_one_of_its_own() -> None:
    (window,) = windows_of(box=(100, 200, 900, 500))
    x0, y0, x1, y1 = window
    assert x0 <= 0 and y0 <= 100 and x1 >= 1000 and y1 >= 600
    (window,) = windows_of(points=[(10, 10), (1390, 890)], labels=[1, 0])
    assert window == (0, 0, 1400, 900)
    inside, over_a_border = windows_of(boxes=[(40, 40, 90, 90), (480, 300, 560, 420)])
    assert inside == (0, 0, 512, 512)
    assert over_a_border in GRID.grid(SIZE)


def test_a_mask_of_a_window_is_that_of_the_cropped_file_to_the_last_bit(
    sam: HQSam, large: NDArray[np.uint8]
) -> None:
    mask = sam.open(large, windows=GRID).segment(points=[(700, 450)])
    x0, y0, x1, y1 = mask.window
    file = io.BytesIO()
    Image.fromarray(large[y0:y1, x0:x1]).save(file, "PNG")
    cropped = sam.open(file.getvalue()).segment(points=[(700 - x0, 450 - y0)])
    assert np.array_equal(mask.inner.low_res_logits, cropped.low_res_logits)
    assert mask.size == SIZE
    expected = np.zeros(SIZE, np.bool_)
    expected[y0:y1, x0:x1] = cropped.array
    assert np.array_equal(mask.array, expected)
    assert (mask.area, mask.iou) == (cropped.area, cropped.iou)
    assert not mask.has_logits


def test_a_window_larger_than_the_model_sees_is_that_of_the_cropped_file_too(
    sam: HQSam, large: NDArray[np.uint8]
) -> None:
    mask = sam.open(large, windows=Windows(1200, 300)).segment(points=[(700, 450)])
    x0, y0, x1, y1 = mask.window
    assert x1 - x0 == 1200
    file = io.BytesIO()
    Image.fromarray(large[y0:y1, x0:x1]).save(file, "PNG")
    cropped = sam.open(file.getvalue()).segment(points=[(700 - x0, 450 - y0)])
    assert np.array_equal(mask.inner.low_res_logits, cropped.low_res_logits)


def test_many_prompts_come_back_in_their_order(sam: HQSam, large: NDArray[np.uint8]) -> None:
    image = sam.open(large, windows=GRID)
    boxes = [(1300, 800, 1380, 880), (10, 20, 90, 80), (1290, 790, 1370, 870), (650, 400, 720, 460)]
    masks = image.segment(boxes=boxes, logits=False)
    alone = [image.segment(box=box, logits=False) for box in boxes]
    assert [mask.window for mask in masks] == [mask.window for mask in alone]
    assert [mask.area for mask in masks] == [mask.area for mask in alone]


def test_refining_stays_in_its_window(sam: HQSam, large: NDArray[np.uint8]) -> None:
    image = sam.open(large, windows=GRID)
    first = image.segment(points=[(500, 430)])
    # The second click is nearer to the centre of another window, and the first one holds it.
    refined = image.segment(points=[(500, 430), (505, 440)], labels=[1, 0], refine=first)
    assert refined.window == first.window
    inner = sam.open(large[slice(*first.window[1::2]), slice(*first.window[::2])].copy())
    x0, y0 = first.window[:2]
    points = [(500 - x0, 430 - y0), (505 - x0, 440 - y0)]
    expected = inner.segment(points=points, labels=[1, 0], refine=first.inner)
    assert np.array_equal(refined.inner.low_res_logits, expected.low_res_logits)
    far = image.segment(points=[(500, 430), (1390, 890)], refine=first)
    assert far.window != first.window
    with pytest.raises(PromptError, match="whole image"):
        whole = Mask(np.zeros((256, 256), np.float32), 1.0, SIZE)
        image.segment(points=[(5, 5)], refine=whole)  # type: ignore[call-overload]


def test_windows_are_encoded_when_they_are_needed_or_ahead(
    sam: HQSam, large: NDArray[np.uint8]
) -> None:
    image = sam.open(large, windows=GRID)
    image.segment(points=[(5, 5)])
    seen: list[tuple[int, int]] = []
    count = len(image.windows)
    assert image.embed(progress=lambda done, total: seen.append((done, total))) == count - 1
    assert seen == [(number, count) for number in range(1, count + 1)]
    assert image.embed(concurrency=1) == 0
    with pytest.raises(OptionError, match="concurrency"):
        image.embed(concurrency=0)


def test_windows_are_crops_enough(sam: HQSam, large: NDArray[np.uint8]) -> None:
    with pytest.raises(OptionError, match="crop_n_layers"):
        sam.open(large, windows=GRID).everything(EverythingOptions(crop_n_layers=1))


def test_zoom_is_a_window_around_the_object(sam: HQSam, large: NDArray[np.uint8]) -> None:
    image = sam.open(large)
    mask = image.zoom([(705, 460)], box=(680, 430, 780, 500))
    assert mask.window == (580, 315, 880, 615)
    inner = sam.open(large[315:615, 580:880].copy())
    expected = inner.segment([(125, 145)], box=(100, 115, 200, 185))
    assert np.array_equal(mask.inner.low_res_logits, expected.low_res_logits)
    first = image.segment([(705, 460)])
    assert np.array_equal(
        image.zoom([(705, 460)]).array, image.zoom([(705, 460)], mask=first).array
    )


def test_zoom_says_what_it_lacks(sam: HQSam, large: NDArray[np.uint8]) -> None:
    image = sam.open(large)
    empty = Mask(RunLengths.of_mask(np.zeros(SIZE, np.bool_)), 0.5, SIZE)
    for wrong, message in [
        ({}, "no prompt"),
        ({"mask": empty}, "empty"),
        ({"mask": Mask(np.zeros((256, 256), np.float32), 0.5, (9, 9))}, "expected"),
        ({"points": [[(1, 1)], [(2, 2)]]}, "several"),
        ({"box": (5, 5, 5, 5)}, "box"),
    ]:
        with pytest.raises(PromptError, match=message):
            image.zoom(**wrong)  # type: ignore[arg-type]


def of_box(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> Mask:
    pixels = np.zeros(size, np.bool_)
    pixels[y0:y1, x0:x1] = True
    return Mask(RunLengths.of_mask(pixels), 0.5, size)


def test_small_objects_are_zoomed_into_and_no_others() -> None:
    small = [is_small(of_box(100, 50, 100 + side, 90)) for side in (0, 5, 349, 350, 900)]
    assert small == [False, True, True, False, False]  # 350 pixels of 1400 are 256 of 1024
    assert not is_small(of_box(10, 10, 20, 20, (800, 1024)))


def test_a_zoom_shows_the_object_with_its_own_prompt() -> None:
    mask = of_box(300, 300, 400, 360)
    (clicked,), _ = check(SIZE, points=[(310, 320), (1390, 890)], labels=[1, 0])
    group = zoomed(clicked, mask, SIZE)
    assert group.window == (200, 180, 500, 480)
    (prompt,) = group.prompts
    assert prompt.points.tolist() == [[110, 140]]  # the other one is not in the window
    assert prompt.labels.tolist() == [1]
    assert not len(prompt.corners)
    nothing = zoom_prompt(SIZE, None, None, None, mask)
    (prompt,) = zoomed(nothing, mask, SIZE).prompts
    assert prompt.corners.tolist() == [[100, 120], [200, 180]]
    (boxed,), _ = check(SIZE, box=(10, 20, 110, 60))
    group = zoomed(boxed, mask, SIZE)
    assert group.window == (0, 0, 300, 300)
    assert group.prompts[0].corners.tolist() == [[10, 20], [110, 60]]


def test_a_zoom_goes_on_while_the_object_is_small_in_its_window() -> None:
    (clicked,), _ = check(SIZE, points=[(310, 320)])
    (boxed,), _ = check(SIZE, box=(300, 300, 320, 330))

    def found(side: int, window: tuple[int, int, int, int]) -> WindowMask:
        x0, y0, x1, y1 = window
        inner = of_box(0, 0, side, side, (y1 - y0, x1 - x0))
        return WindowMask(inner, window, SIZE)

    large, least = (100, 100, 700, 700), (200, 200, 456, 456)
    assert is_still_small(found(119, large), clicked)
    assert not is_still_small(found(120, large), clicked)
    assert not is_still_small(found(0, large), clicked)
    assert not is_still_small(found(20, least), clicked)
    assert not is_still_small(found(20, large), boxed)


def test_an_image_that_the_model_sees_whole_needs_no_zoom(
    sam: HQSam, array: NDArray[np.uint8]
) -> None:
    mask = sam.open(array).segment(box=(10, 10, 20, 20), zoom=True)
    assert not isinstance(mask, WindowMask)


def test_a_cleaned_mask_stays_one_of_its_window(sam: HQSam, large: NDArray[np.uint8]) -> None:
    mask = sam.open(large, windows=GRID).segment(points=[(700, 450)])
    cleaned = mask.cleaned(20)
    assert (cleaned.window, cleaned.size) == (mask.window, SIZE)
    assert np.array_equal(cleaned.inner.array, mask.inner.cleaned(20).array)
    assert cleaned.overlay().size == SIZE[::-1]


@pytest.mark.slow
def test_asyncio_gives_the_same(url: str, sam: HQSam, large: NDArray[np.uint8]) -> None:
    boxes = [(1300, 800, 1380, 880), (10, 20, 90, 80)]
    options = EverythingOptions(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)

    async def all_of_it() -> tuple[list[Any], int]:
        async with AsyncHQSam(url) as client:
            image = await client.open(large, windows=GRID)
            new = await image.embed(concurrency=2)
            whole = await client.open(large)
            masks = [
                *await image.segment(boxes=boxes),
                await whole.zoom(box=boxes[0]),
                await whole.zoom([(705, 460)]),
                await whole.segment(box=boxes[1], zoom=True),
                *await image.everything(options),
            ]
            return masks, new

    masks, new = asyncio.run(all_of_it())
    image, whole = sam.open(large, windows=GRID), sam.open(large)
    assert (new, image.embed()) == (len(image.windows), 0)
    expected = [
        *image.segment(boxes=boxes),
        whole.zoom(box=boxes[0]),
        whole.zoom([(705, 460)]),
        whole.segment(box=boxes[1], zoom=True),
        *image.everything(options),
    ]
    assert len(masks) == len(expected)
    for one, other in zip(masks, expected, strict=True):
        assert np.array_equal(one.run_lengths.counts, other.run_lengths.counts)


def test_a_file_that_is_no_image_is_refused(sam: HQSam, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(b"II*\0 and nothing else")
    with pytest.raises(ImageError, match=r"map\.tif"):
        sam.open(path, windows=GRID)
    with pytest.raises(ImageError, match="cannot be read"):
        sam.open(tmp_path / "missing.tif", windows=GRID)
