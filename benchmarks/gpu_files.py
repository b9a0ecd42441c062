"""Writes what `benchmarks.gpu` measures: ONNX files in fp32 and fp16, and images.

It needs the exporter and no GPU. Weights are rebuilt (ViT-B, random) unless `HQSAM_CHECKPOINT`
names a checkpoint.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

import numpy as np
from hqsam_client import contract
from hqsam_export import checkpoint, exporter, onnx_files
from hqsam_server.models.preprocess import Limits
from hqsam_testing import rebuilt
from hqsam_testing.oracle import images
from hqsam_testing.preprocess import preprocess
from PIL import Image

from benchmarks.gpu import HALVED, IMAGES


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--quick", action="store_true", help="a tiny encoder instead of ViT-B")
    args = parser.parse_args()
    source = os.environ.get("HQSAM_CHECKPOINT")
    if source:
        model = checkpoint.load_model(Path(source))
    else:
        model = checkpoint.build_model(rebuilt.state_dict(rebuilt.TINY if args.quick else None))
    exporter.export(model, args.folder, report=print)
    for spec in (contract.ENCODER, contract.PROMPT_DECODER):
        halved = args.folder / HALVED.format(spec.name)
        shutil.copytree(args.folder / spec.name, halved, dirs_exist_ok=True)
        onnx_files.lower(halved / "1" / "model.onnx")
    limits = Limits(contract.MAX_IMAGE_BYTES, contract.MAX_IMAGE_PIXELS)
    arrays = {}
    for name, size in images.SIZES.items():
        file = io.BytesIO()
        Image.fromarray(images.draw(*size)).save(file, "PNG")
        arrays[name] = preprocess(file.getvalue(), limits)[0]
    np.savez(args.folder / IMAGES, **arrays)


if __name__ == "__main__":
    main()
