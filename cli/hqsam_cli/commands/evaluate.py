"""`hqsam evaluate`: score a server's masks on images whose true masks are known."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError, OptionError
from hqsam_client.shared.modes import Mode

from hqsam_cli import options

if TYPE_CHECKING:
    from hqsam_evaluation.data_set import Pair
    from hqsam_evaluation.scores import Scores

_EPILOG = """\
A mask has the name and the size of its image; its format may differ. Images are looked for in
images or im, masks in masks, gt or masks_max255; or both in FOLDER itself, where masks are .png
and images are not. Each object is segmented by its box and by clicks: each click is in the
middle of the largest error of the mask before it, the first one in the middle of the object.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam evaluate`."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=options.path, metavar="FOLDER", help="images and masks")
    parser.add_argument("--images", metavar="NAME", help="folder of the images, inside FOLDER")
    parser.add_argument("--masks", metavar="NAME", help="folder of the masks, inside FOLDER")
    parser.add_argument(
        "--labels",
        action="store_true",
        help="each value of a mask but 0 is an object; by default the pixels brighter than half "
        "are the one object",
    )
    parser.add_argument(
        "--clicks",
        type=options.not_negative,
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
        help="as in hqsam segment (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=options.positive, metavar="N", help="the first N images by name only"
    )
    parser.add_argument(
        "--concurrency",
        type=options.positive,
        default=4,
        metavar="N",
        help="images under way at once (default: %(default)s)",
    )
    parser.add_argument(
        "--report",
        type=options.path,
        metavar="FILE",
        help="write the scores of each object as JSON",
    )
    options.add_image_arguments(parser)
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the means, and write the report; the status is 1 if any image failed."""
    from hqsam_evaluation import data_set, scores

    pairs = data_set.find_pairs(args.folder, args.images, args.masks)[: args.limit]
    settings = scores.Settings(args.clicks, args.mode, args.refine, args.labels, args.value_range)
    with (
        HQSam(args.url, **options.client_options(args)) as sam,
        options.progress("image") as show,
    ):
        results = scores.evaluate_pairs(
            sam,
            pairs,
            settings,
            concurrency=args.concurrency,
            progress=options.each(show, len(pairs)),
        )
    evaluated: list[tuple[Pair, list[Scores]]] = []
    for pair, result in zip(pairs, results, strict=True):
        if isinstance(result, HQSamError):
            options.print_failure("evaluate", pair.image.name, result)
        else:
            evaluated.append((pair, result))
    if not evaluated:
        return 1
    report = {
        "images": len(evaluated),
        "failed": len(pairs) - len(evaluated),
        "objects": sum(len(result) for _, result in evaluated),
        "mode": args.mode,
        "clicks": args.clicks,
        "refine": args.refine,
        "summary": scores.summary([s for _, result in evaluated for s in result], args.clicks),
        "scores": [
            {"image": pair.image.name, "object": index, **asdict(score)}
            for pair, result in evaluated
            for index, score in enumerate(result)
        ],
    }
    _print(report)
    if args.report is not None:
        _write(args.report, report)
    return 1 if report["failed"] else 0


def _write(file: Path, report: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{file} cannot be written: {error.strerror or error}") from error


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
