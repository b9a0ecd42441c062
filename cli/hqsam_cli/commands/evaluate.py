"""`hqsam evaluate`: how good a server's masks are on images whose masks are known."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError, OptionError
from hqsam_client.shared.protocol import Mode
from hqsam_evaluation.measures import BoolMask, Scores, evaluate_object, summary
from PIL import Image, UnidentifiedImageError

from hqsam_cli import options

_EPILOG = """\
A mask has the name and the size of its image; it may be of another format. Folders are
found by their usual names: images, im or images, and masks, gt, masks_max255 or the same
folder, where masks then are .png and images are not. Boxes are the objects' own. Each
click lies at the centre of the largest error of the mask before it, the first one in the
middle of the object.
"""

_IMAGES = ("images", "im", "images")
_MASKS = ("masks", "gt", "masks_max255")
# Values of Pillow's modes 1 and I;16; all others end at 255.
_BRIGHTEST = {"b1": 1, "u2": 65535}
_IMAGE_ENDINGS = frozenset([".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam evaluate`."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images and masks")
    parser.add_argument("--images", metavar="NAME", help="the folder in it of the images")
    parser.add_argument("--masks", metavar="NAME", help="the folder in it of the masks")
    parser.add_argument(
        "--labels",
        action="store_true",
        help="each value of a mask but 0 is an object of its own; otherwise what is brighter "
        "than half is the one object",
    )
    parser.add_argument(
        "--clicks",
        type=int,
        default=20,
        metavar="N",
        help="most clicks for an object; 0 for boxes alone (default: %(default)s)",
    )
    parser.add_argument(
        "--refine", action="store_true", help="give each mask back with the next click"
    )
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="hq",
        help="as of hqsam segment (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N images, in order of name"
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=4,
        metavar="N",
        help="images that are under way at once (default: %(default)s)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all scores as JSON")
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the means, and write the report; returns 1 if any image failed."""
    if args.clicks < 0 or args.concurrency < 1 or (args.limit is not None and args.limit < 1):
        raise OptionError("--clicks, --concurrency and --limit must not be negative or nothing")
    pairs = find_pairs(args.folder, args.images, args.masks)[: args.limit]
    entries: list[dict[str, Any]] = []
    scores: list[Scores] = []
    failed = 0
    with options.connect(args) as sam, _progress(len(pairs)) as step:

        def evaluate(pair: tuple[Path, Path]) -> list[Scores] | HQSamError:
            try:
                return _evaluate(sam, *pair, args)
            except HQSamError as error:
                return error
            finally:
                step()

        with ThreadPoolExecutor(args.concurrency) as pool:
            results = list(pool.map(evaluate, pairs))
    for (image, _), result in zip(pairs, results, strict=True):
        name = image.name
        if isinstance(result, HQSamError):
            failed += 1
            print(f"hqsam evaluate: {name}: {result}", file=sys.stderr)
            continue
        scores += result
        entries += [{"image": name, "object": i, **asdict(s)} for i, s in enumerate(result)]
    if not scores:
        raise OptionError(f"nothing could be evaluated in {args.folder}: see above")
    report = {
        "images": len(pairs) - failed,
        "failed": failed,
        "objects": len(scores),
        "mode": args.mode,
        "clicks": args.clicks,
        "refine": args.refine,
        "summary": summary(scores, args.clicks),
        "scores": entries,
    }
    if args.report is not None:
        try:
            args.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OptionError(f"{args.report} cannot be written: {error}") from error
    _print(report)
    return 1 if failed else 0


def find_pairs(
    folder: Path, images: str | None = None, masks: str | None = None
) -> list[tuple[Path, Path]]:
    """Return each image with its mask, in order of name.

    Args:
        folder: where both are.
        images: the folder in it of the images; None to find it.
        masks: the folder in it of the masks; None to find it.

    Raises:
        OptionError: there are none, or some without the other.
    """
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder")
    from_folder = folder / _named(folder, images, _IMAGES)
    mask_folder = folder / _named(folder, masks, _MASKS)
    same = from_folder == mask_folder
    found = {
        path.stem: path
        for path in sorted(from_folder.iterdir())
        if path.suffix.lower() in _IMAGE_ENDINGS and not (same and path.suffix == ".png")
    }
    truths = {
        path.stem: path
        for path in sorted(mask_folder.iterdir())
        if path.suffix.lower() in _IMAGE_ENDINGS and not (same and path.suffix != ".png")
    }
    alone = sorted(found.keys() ^ truths.keys())
    if alone:
        raise OptionError(
            f"{len(alone)} files of {from_folder} and {mask_folder} have no partner of the same "
            f"name, {alone[0]!r} for one"
        )
    if not found:
        raise OptionError(f"no images in {from_folder}: see --images and --masks")
    return [(found[name], truths[name]) for name in sorted(found)]


def _named(folder: Path, name: str | None, usual: tuple[str, ...]) -> str:
    if name is None:
        return next((it for it in usual if (folder / it).is_dir()), ".")
    if not (folder / name).is_dir():
        raise OptionError(f"{folder / name} is not a folder")
    return name


def read_objects(path: Path, labels: bool) -> list[BoolMask]:
    """Return the objects of a mask file, bool [height, width] each, in order of their value.

    Raises:
        OptionError: it cannot be read, or holds no object.
    """
    try:
        with Image.open(path) as image:
            # A palette's indices are the values; otherwise brightness is.
            plain = image.mode in ("1", "L", "P", "I", "I;16") and (labels or image.mode != "P")
            values = np.asarray(image if plain else image.convert("L"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise OptionError(f"{path} cannot be read as a mask: {error}") from error
    if labels:
        masks = [values == value for value in np.unique(values) if value]
    else:
        masks = [values > _BRIGHTEST.get(values.dtype.str.lstrip("<|"), 255) / 2]
    masks = [mask for mask in masks if mask.any()]
    if not masks:
        raise OptionError(f"{path} holds no object")
    return masks


def _evaluate(
    sam: HQSam, image_file: Path, mask_file: Path, args: argparse.Namespace
) -> list[Scores]:
    truths = read_objects(mask_file, args.labels)
    image = sam.open(image_file)
    if truths[0].shape != image.size:
        raise OptionError(
            f"its mask has {truths[0].shape} pixels (height, width), expected {image.size}"
        )
    return [
        evaluate_object(image, truth, clicks=args.clicks, mode=args.mode, refine=args.refine)
        for truth in truths
    ]


def _print(report: dict[str, Any]) -> None:
    means = report["summary"]
    print(f"{report['objects']} objects in {report['images']} images")
    print(f"box: mean IoU {means['box_iou']:.3f}, boundary IoU {means['box_boundary_iou']:.3f}")
    if "iou_after_clicks" not in means:
        return
    after = ", ".join(f"{count}: {v:.3f}" for count, v in means["iou_after_clicks"].items())
    print(f"mean IoU after clicks: {after}")
    for percent in (85, 90, 95):
        print(
            f"clicks to {percent} % IoU: {means[f'clicks_to_{percent}']:.2f}, "
            f"not reached: {means[f'failures_at_{percent}']}"
        )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    """Show a progress bar where tqdm is installed and somebody watches."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda: None
        return
    with tqdm(total=total, unit="image", disable=None) as bar:
        yield bar.update
