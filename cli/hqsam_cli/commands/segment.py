"""`hqsam segment`: masks of one image or many."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

from hqsam_client import drawing
from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError, OptionError
from hqsam_client.mask import Mask
from hqsam_client.shared.protocol import Mode
from PIL import Image

from hqsam_cli import options, prompt_options
from hqsam_cli.prompt_options import Job

_EXAMPLES = """\
examples:
  One click, the mask and an image to look at:
    hqsam segment photo.jpg --point 420,310 --output mask.png --overlay overlay.png

  A click on the object, one beside it, and a box around it:
    hqsam segment photo.jpg --point 420,310 --background 90,40 --box 300,200,600,420 \\
        --output mask.png

  Two objects, a mask each and one image of both:
    hqsam segment photo.jpg --box 10,10,200,300 --box 250,40,600,420 \\
        --output '{stem}-{index}.png' --overlay '{stem}-overlay.png'

  Many images and objects, one a line, such as
  {"image": "a.jpg", "points": [[420, 310], [90, 40]], "labels": [1, 0]}
  {"image": "b.jpg", "box": [10, 10, 200, 300]}
    hqsam segment --prompts prompts.jsonl --rle > masks.jsonl

Coordinates are pixels of the upright image, from its top left corner.
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
        help="hq: the HQ mask alone, for single objects; hq+sam: with SAM's mask, for images of "
        "many objects; best: with the best of SAM's three, for ambiguous prompts "
        "(default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        help="the mask, white on black; {stem} stands for the image's name without its ending, "
        "{index} for the mask's number from 0",
    )
    output.add_argument(
        "--overlay",
        metavar="FILE",
        help="the mask drawn on its image; without {index} all masks of an image in one",
    )
    output.add_argument(
        "--json", action="store_true", help="print a JSON object a mask on standard output"
    )
    output.add_argument(
        "--rle", action="store_true", help="as --json, with the mask in COCO's run-length encoding"
    )
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment what the command line asks for; returns 1 if any image failed."""
    jobs = prompt_options.jobs(args)
    _check_names(args.output, args.overlay, jobs)
    failed = 0
    with options.connect(args) as sam:
        for job in jobs:
            try:
                _segment(sam, job, args)
            except HQSamError as error:
                failed += 1
                print(f"hqsam segment: {job.image}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _name(template: str, image: str, index: int) -> Path:
    return Path(template.replace("{stem}", Path(image).stem).replace("{index}", str(index)))


def _check_names(output: str | None, overlay: str | None, jobs: list[Job]) -> None:
    """Refuse names that cannot be written or would be written twice, before anything is sent."""
    masks = [(job.image, index) for job in jobs for index in range(len(job.prompts))]
    images = [(job.image, 0) for job in jobs]
    per_mask = overlay is not None and "{index}" in overlay
    for flag, template, targets in (
        ("--output", output, masks),
        ("--overlay", overlay, masks if per_mask else images),
    ):
        if template is None:
            continue
        if Path(template).suffix.lower() not in Image.registered_extensions():
            raise OptionError(f"{flag} is {template!r}, expected an ending such as .png")
        if len({_name(template, *entry) for entry in targets}) < len(targets):
            raise OptionError(
                f"{flag} is {template!r} for {len(targets)} files: use {{stem}} and {{index}} in it"
            )


def _segment(sam: HQSam, job: Job, args: argparse.Namespace) -> None:
    image = sam.open(job.image)
    masks = image.segment(
        [prompt.points for prompt in job.prompts],
        [prompt.labels for prompt in job.prompts],
        boxes=[prompt.box for prompt in job.prompts],
        mode=args.mode,
    )
    for index, mask in enumerate(masks):
        written = None
        if args.output is not None:
            written = _name(args.output, job.image, index)
            _save(mask.image(), written)
        _print(job.image, index, mask, written, args)
    if args.overlay is not None:
        _draw(args.overlay, job.image, masks)


def _draw(template: str, image: str, masks: list[Mask]) -> None:
    if "{index}" in template:
        for index, mask in enumerate(masks):
            _save(mask.overlay(), _name(template, image, index))
        return
    drawn = None
    for index, mask in enumerate(masks):
        drawn = mask.overlay(drawn, color=drawing.COLORS[index % len(drawing.COLORS)])
    if drawn is not None:
        _save(drawn, _name(template, image, 0))


def _save(image: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error}") from error


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
