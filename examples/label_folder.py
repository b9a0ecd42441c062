"""Labels a folder of images: reads prompts, writes a COCO file and images of the masks.

Each line of the prompts file is an object:

    {"image": "coins.png", "category": "coin", "points": [[335, 44]]}
    {"image": "coins.png", "category": "coin", "box": [242, 92, 297, 145]}

"labels" says which "points" are on the object (1) and which are beside it (0).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hqsam_client import HQSam, HQSamError, Mask

Prompt = dict[str, Any]


def main() -> int:
    """Label the folder; return 1 if an image failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the images")
    parser.add_argument("prompts", type=Path, help="JSON lines")
    parser.add_argument("--output", type=Path, default=Path("coco.json"), metavar="FILE")
    parser.add_argument(
        "--masks", type=Path, metavar="FOLDER", help="write a PNG file of each mask"
    )
    parser.add_argument("--url", default=os.environ.get("HQSAM_URL", "localhost:8001"))
    args = parser.parse_args()

    prompts: defaultdict[str, list[Prompt]] = defaultdict(list)
    for line in args.prompts.read_text("utf-8").splitlines():
        prompt = json.loads(line)
        prompts[prompt["image"]].append(prompt)

    # Several images at once: while the server encodes one, others are sent and answered.
    with HQSam(args.url) as sam, ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda name: segment(sam, args.folder / name, prompts[name]), prompts)
        labelled = dict(zip(prompts, results, strict=True))
    args.output.write_text(json.dumps(coco(prompts, labelled)), "utf-8")
    if args.masks:
        args.masks.mkdir(parents=True, exist_ok=True)
        for name, masks in labelled.items():
            for index, mask in enumerate(masks):
                mask.save(args.masks / f"{Path(name).stem}-{index}.png")
    return 0 if all(labelled.values()) else 1


def segment(sam: HQSam, file: Path, prompts: list[Prompt]) -> list[Mask]:
    """Return a mask for each prompt, in one request; report a bad image and return none."""
    try:
        return sam.open(file).segment(
            [prompt.get("points") for prompt in prompts],
            [prompt.get("labels") for prompt in prompts],
            boxes=[prompt.get("box") for prompt in prompts],
        )
    except HQSamError as error:
        print(f"{file}: {error}", file=sys.stderr)
        return []


def coco(prompts: dict[str, list[Prompt]], labelled: dict[str, list[Mask]]) -> dict[str, Any]:
    """Return the objects as COCO instances with run-length encoded masks."""
    names = sorted({prompt["category"] for group in prompts.values() for prompt in group})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, masks) in enumerate(labelled.items(), 1):
        for prompt, mask in zip(prompts[name], masks, strict=False):
            x0, y0, x1, y1 = mask.box or (0, 0, 0, 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(prompt["category"]) + 1,
                    "segmentation": mask.rle(),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": mask.area,
                    "iscrowd": 0,
                }
            )
        if masks:
            height, width = masks[0].size
            images.append({"id": number, "file_name": name, "height": height, "width": width})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


if __name__ == "__main__":
    sys.exit(main())
