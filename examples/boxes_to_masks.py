"""Adds masks to a detector's boxes: reads COCO detections, writes them with "segmentation".

The detections are in COCO's results format, which evaluation tools read and write:

    [{"image_id": 7, "category_id": 1, "bbox": [x, y, width, height], "score": 0.9}]

The names of the images come from the data set's own file, {"images": [{"id": 7,
"file_name": "coins.png"}]}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from hqsam_client import HQSam, HQSamError


def main() -> int:
    """Segment all boxes; return 1 if an image failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detections", type=Path, help="COCO results")
    parser.add_argument("instances", type=Path, help='COCO data set with the "images"')
    parser.add_argument("folder", type=Path, help="the images")
    parser.add_argument("--output", type=Path, default=Path("segmentations.json"), metavar="FILE")
    parser.add_argument("--min-score", type=float, default=0.5, metavar="SCORE")
    parser.add_argument("--url", default=os.environ.get("HQSAM_URL", "localhost:8001"))
    args = parser.parse_args()

    names = {it["id"]: it["file_name"] for it in json.loads(args.instances.read_text())["images"]}
    groups: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for detection in json.loads(args.detections.read_text()):
        if detection["score"] >= args.min_score:
            groups[detection["image_id"]].append(detection)

    segmented: list[dict[str, Any]] = []
    failed = False
    with HQSam(args.url) as sam:
        for image_id, detections in groups.items():
            try:
                segmented += segment(sam, args.folder / names[image_id], detections)
            except HQSamError as error:
                failed = True
                print(f"{names[image_id]}: {error}", file=sys.stderr)
    args.output.write_text(json.dumps(segmented), "utf-8")
    print(f"{len(segmented)} masks in {args.output}")
    return 1 if failed else 0


def segment(sam: HQSam, file: Path, detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the detections of one image with their masks."""
    boxes = []
    for detection in detections:
        x, y, width, height = detection["bbox"]
        boxes.append((x, y, x + width, y + height))
    masks = sam.open(file).segment(boxes=boxes)
    return [
        {**detection, "segmentation": mask.rle()}
        for detection, mask in zip(detections, masks, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
