"""`hqsam demo-official`: the prompts of HQ-SAM's own demonstration, on a copy of its images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from hqsam_client import drawing
from hqsam_client.client import HQSam
from hqsam_client.errors import OptionError
from hqsam_client.shared.modes import Mode
from hqsam_client.shared.prompt_encoding import Box

from hqsam_cli import options

_EPILOG = """\
The images are example0.png to example7.png of demo/input_imgs in github.com/SysCV/sam-hq:
clone that repository. Prompts and modes are those of its demo/demo_hqsam.py, so with the
published weights the overlays look like those of that demonstration.
"""


class _Example(NamedTuple):
    """A prompt in pixels of `example<number>.png`; several boxes are several objects."""

    mode: Mode
    points: tuple[tuple[int, int], ...] = ()
    boxes: tuple[Box, ...] = ()


# `hq` is the authors' `hq_token_only=True`, for one object; `hq+sam` their default.
_EXAMPLES = (
    _Example("hq+sam", boxes=((4, 13, 1007, 1023),)),
    _Example("hq", boxes=((306, 132, 925, 893),)),
    _Example("hq", points=((495, 518), (217, 140))),
    _Example("hq+sam", points=((221, 482), (498, 633), (750, 379))),
    _Example("hq", boxes=((64, 76, 940, 919),)),
    _Example("hq+sam", points=((373, 363), (452, 575))),
    _Example("hq+sam", boxes=((181, 196, 757, 495),)),
    _Example("hq+sam", boxes=((45, 260, 515, 470), (310, 228, 424, 296))),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam demo-official`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "folder", type=options.path, metavar="FOLDER", help="the authors' input_imgs"
    )
    parser.add_argument(
        "--output",
        type=options.path,
        default="demo-official",
        metavar="FOLDER",
        help="where to write overlays and masks (default: %(default)s)",
    )
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the images, and write masks and overlays."""
    files = [args.folder / f"example{number}.png" for number in range(len(_EXAMPLES))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise OptionError(
            f"{args.folder} lacks {', '.join(missing)}: expected demo/input_imgs of a clone of "
            "github.com/SysCV/sam-hq"
        )
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{args.output} cannot be written: {error.strerror or error}") from error
    with HQSam(args.url, **options.client_options(args)) as sam:
        for file, example in zip(files, _EXAMPLES, strict=True):
            _segment(sam, file, example, args.output)
    return 0


def _segment(sam: HQSam, file: Path, example: _Example, output: Path) -> None:
    image = sam.open(file)
    if example.boxes:
        masks = image.segment(boxes=example.boxes, mode=example.mode)
    else:
        masks = [image.segment(example.points, mode=example.mode)]
    for index, mask in enumerate(masks):
        name = file.stem if len(masks) == 1 else f"{file.stem}-{index}"
        mask.save(output / f"{name}-mask.png")
        print(f"{name}: {mask.area} pixels, predicted IoU {mask.iou:.3f}")
    if overlay := drawing.together(masks):
        overlay.save(output / f"{file.stem}.png")
