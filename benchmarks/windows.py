"""Small objects of large images: masks and time of a click with windows and without, and memory.

First, what zoom gains on drawn scenes of 3000 x 2250 pixels. Then a map of 20,000 x 20,000: the
model cannot be given it as a whole; without windows, it is given what it would see of it.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import rasterio
from hqsam_client import HQSam, Windows
from hqsam_client.contract import INPUT_SIZE
from hqsam_evaluation.measures import boundary_iou, iou
from hqsam_server import TritonServer
from hqsam_testing import maps
from hqsam_testing.processes import memory_bytes
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.peak import Peak
from training import samples, scenes

SIDE = 20_000

SCENES, SCENE = 16, (3000, 2250)
"""Drawn scenes, and (width, height) of each."""

SIZES = {64: "less than 64 pixels", 128: "64 to 128", 256: "128 to 256", 1025: "256 and more"}
"""Of the box of the first mask."""

BOUNDARY = 0.005
"""Of the diagonal: how far from a contour a pixel counts as boundary, 19 pixels."""

CLICKS = 60
"""Objects that are clicked, spread over the image."""


def main() -> None:
    """Run the benchmark."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hqsam-windows-")))
        path = folder / "map.tif"
        # In a process of its own: its memory is not the client's.
        with ProcessPoolExecutor(1, mp_context=spawn) as drawing:
            objects = drawing.submit(maps.write, path, SIDE).result()
        chosen = objects[:: len(objects) // CLICKS][:CLICKS]
        server = stack.enter_context(TritonServer())
        sam = stack.enter_context(HQSam(server.grpc_url))
        warm_up = sam.open(np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8))
        warm_up.segment(points=[(1, 1)])
        with (
            Peak(lambda: psutil.Process().memory_info().rss) as client,
            Peak(lambda: memory_bytes(server.pid)) as served,
        ):
            first, again, ious = in_windows(sam, path, chosen)
        without = statistics.fmean(as_a_whole(sam, path, chosen))
        rows = zooms(sam)
    encode_s = statistics.median(first) - statistics.median(again)
    rows += [
        {
            "what": "mean IoU of a click, objects of 16 to 60 pixels, with windows",
            "figure": f"{statistics.fmean(ious):.2f}",
            "detail": f"{without:.2f} without (aim: 0.3 above); {len(chosen)} of {len(objects)} "
            f"objects of {SIDE} x {SIDE} pixels",
        },
        {
            "what": "the first click in a window",
            "figure": f"{1e3 * statistics.median(first):.0f} ms",
            "detail": f"{1e3 * statistics.median(again):.0f} ms again; {1e3 * encode_s:.0f} ms to "
            "read, send and encode the window",
        },
        {
            "what": "memory of the client besides",
            "figure": f"{client.grown / 1e6:.0f} MB",
            "detail": "at its peak, over idle (aim: less than 1,000 MB)",
        },
        {
            "what": "memory of the server besides",
            "figure": f"{served.grown / 1e6:.0f} MB",
            "detail": f"at its peak, with the embeddings of {len(chosen)} windows in its store "
            "(aim: less than 1,000 MB)",
        },
    ]
    report.write("windows", "Small objects of a large image", "make bench-windows", rows)


def zooms(sam: HQSam) -> list[dict[str, str]]:
    """Click objects of scenes, and zoom into them; return a row for each range of sizes."""
    rng = np.random.default_rng(5)
    found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in SIZES.values()}
    for seed in range(SCENES):
        scale = float(rng.choice([0.5, 0.8, 1.2]))
        scene = scenes.draw(seed + 100, *SCENE, scale=scale, min_area_px=300)
        image = sam.open(scene.image)
        for number in rng.permutation(len(scene.masks))[:4]:
            truth = scene.masks[number]
            point, box = samples.centre(truth), samples.box(truth)
            first = image.segment([point])
            x0, y0, x1, y1 = first.box or (0, 0, 0, 0)
            if not first.area:
                continue
            in_frame = max(x1 - x0, y1 - y0) * INPUT_SIZE / max(SCENE)
            masks = [
                first,
                image.zoom([point], mask=first),
                image.segment(box=box),
                image.zoom(box=box),
            ]
            name = next(name for limit, name in SIZES.items() if in_frame < limit)
            found[name].append([both_ious(mask.array, truth) for mask in masks])
    return [zoom_row(name, values) for name, values in found.items() if values]


def both_ious(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Return IoU and boundary IoU."""
    return iou(mask, truth), boundary_iou(mask, truth, BOUNDARY)


def zoom_row(size: str, values: list[list[tuple[float, float]]]) -> dict[str, str]:
    """Return a row of the report from `both_ious` of four masks for each object."""
    click, zoomed, box, zoomed_box = np.array(values).mean(axis=0)
    return {
        "what": f"zoom, first mask of {size} in the input frame",
        "figure": f"{zoomed[0]:.2f} instead of {click[0]:.2f}",
        "detail": f"mean IoU of a click; boundary IoU {zoomed[1]:.2f} instead of {click[1]:.2f}; "
        f"with a true box, IoU {zoomed_box[0]:.2f} instead of {box[0]:.2f}, boundary IoU "
        f"{zoomed_box[1]:.2f} instead of {box[1]:.2f}; {len(values)} objects",
    }


def in_windows(
    sam: HQSam, path: Path, objects: list[maps.Object]
) -> tuple[list[float], list[float], list[float]]:
    """Click each object twice; return seconds of the first and of the second click, and IoU."""
    first: list[float] = []
    again: list[float] = []
    ious = []
    image = sam.open(path, windows=Windows())
    for it in objects:
        for seconds in (first, again):
            start = time.perf_counter()
            mask = image.segment(points=[it.point])
            seconds.append(time.perf_counter() - start)
        ious.append(it.iou(*mask.cutout(), mask.area))
    return first, again, ious


def as_a_whole(sam: HQSam, path: Path, objects: list[maps.Object]) -> list[float]:
    """Click each object on the shrunk image; return IoU in original pixels."""
    with rasterio.open(path) as dataset:
        seen = dataset.read(
            out_shape=(3, INPUT_SIZE, INPUT_SIZE), resampling=rasterio.enums.Resampling.average
        )
    image = sam.open(np.ascontiguousarray(seen.transpose(1, 2, 0)))
    scale = SIDE / INPUT_SIZE
    ious = []
    for it in objects:
        x, y = it.point
        mask = image.segment(points=[((x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5)])
        x0, y0, x1, y1 = it.box
        rows, columns = (
            ((np.arange(low, high) + 0.5) / scale).astype(int) for low, high in ((y0, y1), (x0, x1))
        )
        ious.append(it.iou(mask.array[np.ix_(rows, columns)], (x0, y0), mask.area * scale**2))
    return ious


if __name__ == "__main__":
    main()
