"""`hqsam everything`: masks of all objects in images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError
from hqsam_client.everything import EverythingOptions, FoundMask
from hqsam_client.shared.geometry import Size

from hqsam_cli import mask_files, options

_EXAMPLES = """\
examples:
  All objects, as a COCO file, and an image to look at:
    hqsam everything photo.jpg --coco objects.json --overlay overlay.png

  A finer grid, and a second look at four crops for small objects:
    hqsam everything photo.jpg --points-per-side 48 --crop-n-layers 1 --coco objects.json

The options are those of the authors' SamAutomaticMaskGenerator. With tqdm (pip install
'hqsam-triton[progress]') a progress bar is shown.
"""

_HELP = {
    "points_per_side": "points on each side of the grid of prompts",
    "points_per_batch": "prompts in a request",
    "pred_iou_thresh": "keep masks whose predicted IoU is above this",
    "stability_score_thresh": "keep masks whose stability score reaches this",
    "box_nms_thresh": "remove a mask if its box has an IoU above this with that of a better one",
    "crop_n_layers": "look again in so many layers of smaller crops",
    "crop_n_points_downscale_factor": "divide the points on a side by this for each layer",
    "min_mask_region_area": "remove holes and parts of fewer pixels; needs OpenCV",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam everything`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    search = parser.add_argument_group("search")
    defaults = EverythingOptions()
    for name, text in _HELP.items():
        default = getattr(defaults, name)
        search.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="N" if isinstance(default, int) else "X",
            help=f"{text} (default: %(default)s)",
        )
    options.add_windows(parser)
    written = parser.add_argument_group("output")
    written.add_argument(
        "--coco",
        type=options.path,
        metavar="FILE",
        help="write the masks of all images as a COCO file, in run lengths",
    )
    written.add_argument(
        "--overlay",
        metavar="FILE",
        help="draw the masks on their image; {stem} becomes the image's name without its ending",
    )
    written.add_argument("--json", action="store_true", help="print a JSON object for each mask")
    options.add_image_arguments(parser)
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Look for everything, write and print the masks; the status is 1 if any image failed."""
    windows = options.windows(args)
    wanted = EverythingOptions(**{name: getattr(args, name) for name in _HELP})
    mask_files.check_overlays("--overlay", args.overlay, [(it, 0) for it in args.images])
    found: list[tuple[str, Size, list[FoundMask]]] = []
    failed = 0
    with HQSam(args.url, **options.client_options(args)) as sam:
        for name in args.images:
            try:
                path, value_range = options.path(name), args.value_range
                image = (
                    sam.open(path, value_range=value_range)
                    if windows is None
                    else sam.open(path, value_range=value_range, windows=windows)
                )
                with options.progress("prompt") as bar:
                    masks = image.everything(wanted, progress=bar)
                if args.overlay is not None:
                    mask_files.draw(args.overlay, name, _largest_first(masks))
                _print(name, masks, as_json=args.json)
                found.append((name, image.size, masks))
            except HQSamError as error:
                failed += 1
                options.print_failure("everything", name, error)
    if args.coco is not None:
        text = json.dumps(_coco(found)) + "\n"
        mask_files.save(lambda file: file.write_text(text, "utf-8"), args.coco)
    return 1 if failed else 0


def _largest_first(masks: Sequence[FoundMask]) -> list[FoundMask]:
    """Return masks in an order in which none is drawn over a smaller one."""
    return sorted(masks, key=lambda mask: -mask.area)


def _print(image: str, masks: Sequence[FoundMask], *, as_json: bool) -> None:
    if not as_json:
        print(f"{image}: {len(masks)} objects", flush=True)
        return
    for index, mask in enumerate(masks):
        record = mask.record("coco_rle")
        print(json.dumps({"image": image, "index": index, **record}), flush=True)


def _coco(found: Sequence[tuple[str, Size, Sequence[FoundMask]]]) -> dict[str, Any]:
    """Return COCO's object of images and annotations; boxes are [x, y, width, height] in pixels."""
    annotations: list[dict[str, Any]] = []
    for image_id, (_, _, masks) in enumerate(found, start=1):
        for mask in masks:
            x0, y0, x1, y1 = mask.box or (0, 0, 0, 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": mask.rle(),
                    "area": mask.area,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "predicted_iou": mask.iou,
                    "stability_score": mask.stability_score,
                    "point_coords": [list(mask.point)],
                }
            )
    images = [
        {"id": number, "file_name": Path(name).name, "height": size[0], "width": size[1]}
        for number, (name, size, _) in enumerate(found, start=1)
    ]
    categories = [{"id": 1, "name": "object"}]
    return {"images": images, "annotations": annotations, "categories": categories}
