"""`hqsam segment`: masks of one image or many."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError, ImageError
from hqsam_client.mask import Mask
from hqsam_client.shared.modes import Mode

from hqsam_cli import mask_files, options, prompt_options
from hqsam_cli.prompt_options import Job

_EXAMPLES = """\
examples:
  One click, the mask and an image to look at:
    hqsam segment photo.jpg --point 420,310 --output mask.png --overlay overlay.png

  A click on the object, one on the background, and a box around the object:
    hqsam segment photo.jpg --point 420,310 --background 90,40 --box 300,200,600,420 \\
        --output mask.png

  Two objects: a mask for each, and one overlay of both:
    hqsam segment photo.jpg --box 10,10,200,300 --box 250,40,600,420 \\
        --output '{stem}-{index}.png' --overlay '{stem}-overlay.png'

  A map of any number of pixels, and the outlines of objects with their place on it:
    hqsam segment map.tif --windows --box 790,500,850,540 --output objects.geojson

  Many images and objects, one on each line, such as
  {"image": "a.jpg", "points": [[420, 310], [90, 40]], "labels": [1, 0]}
  {"image": "b.jpg", "box": [10, 10, 200, 300]}
    hqsam segment --prompts prompts.jsonl --rle > masks.jsonl

Coordinates are pixels of the upright image: 0,0 is the centre of the top left pixel.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam segment`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    prompts = prompt_options.add_arguments(parser)
    prompts.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="hq",
        help="hq: the HQ mask alone, for single objects; hq+sam: plus SAM's mask, for images of "
        "many objects; best: plus the best of SAM's three masks, for ambiguous prompts "
        "(default: %(default)s)",
    )
    large = parser.add_argument_group("large images").add_mutually_exclusive_group()
    large.add_argument(
        "--zoom",
        action="store_true",
        help="segment small objects again, in a window around each at full resolution",
    )
    options.add_windows(large)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        help="write the mask, white on black; {stem} becomes the image's name without its ending, "
        "{index} the mask's number, from 0. A name that ends in .geojson gets the outlines; "
        "without {index}, of all masks of an image. With rasterio, .tif and .geojson have the "
        "place on the map of a GeoTIFF image",
    )
    output.add_argument(
        "--overlay",
        metavar="FILE",
        help="draw the mask on its image, with --windows on its window; without {index}, all "
        "masks of an image on the whole",
    )
    output.add_argument("--json", action="store_true", help="print a JSON object for each mask")
    output.add_argument(
        "--rle",
        action="store_true",
        help="like --json, with the mask in COCO's run-length encoding",
    )
    options.add_image_arguments(parser)
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment, write and print the masks; the status is 1 if any image failed."""
    jobs = prompt_options.jobs(args)
    _check_names(args.output, args.overlay, jobs)
    failed = 0
    with HQSam(args.url, **options.client_options(args)) as sam:
        for job in jobs:
            try:
                _segment(sam, job, args)
            except HQSamError as error:
                failed += 1
                options.print_failure("segment", job.image, error)
    return 1 if failed else 0


def _check_names(output: str | None, overlay: str | None, jobs: list[Job]) -> None:
    masks = [(job.image, index) for job in jobs for index in range(len(job.prompts))]
    images = [(job.image, 0) for job in jobs]
    mask_files.check_masks("--output", output, masks if _is_per_mask(output) else images)
    per_mask = overlay is not None and "{index}" in overlay
    mask_files.check_overlays("--overlay", overlay, masks if per_mask else images)


def _is_per_mask(output: str | None) -> bool:
    """Tell whether each mask has a file of its own."""
    return output is None or "{index}" in output or not mask_files.is_geojson(output)


def _segment(sam: HQSam, job: Job, args: argparse.Namespace) -> None:
    if job.path.is_dir():
        raise ImageError(
            f"{job.image} is a folder, expected image files, such as {Path(job.image, '*.jpg')}"
        )
    masks = _masks(sam, job, args)
    if args.output is not None and not _is_per_mask(args.output):
        mask_files.write(masks, mask_files.name(args.output, job.image, 0), job.path)
    for index, mask in enumerate(masks):
        written = None
        if args.output is not None:
            written = mask_files.name(args.output, job.image, index)
            if _is_per_mask(args.output):
                mask_files.write([mask], written, job.path)
        _print(job.image, index, mask, written, args)
    if args.overlay is not None:
        mask_files.draw(args.overlay, job.image, masks, on_windows=args.windows is not None)


def _masks(sam: HQSam, job: Job, args: argparse.Namespace) -> Sequence[Mask]:
    windows = options.windows(args)
    points = [prompt.points for prompt in job.prompts]
    labels = [prompt.labels for prompt in job.prompts]
    boxes = [prompt.box for prompt in job.prompts]
    if windows is not None:
        in_windows = sam.open(job.path, value_range=args.value_range, windows=windows)
        return in_windows.segment(points, labels, boxes=boxes, mode=args.mode)
    image = sam.open(job.path, value_range=args.value_range)
    return image.segment(points, labels, boxes=boxes, mode=args.mode, zoom=args.zoom)


def _print(
    image: str, index: int, mask: Mask, written: Path | None, args: argparse.Namespace
) -> None:
    if not (args.json or args.rle):
        box = "empty" if mask.box is None else "box {},{},{},{}".format(*mask.box)
        target = f" -> {written}" if written is not None else ""
        print(f"{image} {index}: {mask.area} pixels, {box}, predicted IoU {mask.iou:.3f}{target}")
        return
    entry = {
        "image": image,
        "index": index,
        "size": list(mask.size),
        "box": mask.box,
        "area": mask.area,
        "iou": round(mask.iou, 6),
    }
    if args.rle:
        entry["rle"] = mask.rle()
    print(json.dumps(entry), flush=True)
