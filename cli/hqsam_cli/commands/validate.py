"""`hqsam validate`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam validate`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the model repository")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="compare every file with PyTorch on these weights, too",
    )


def run(args: argparse.Namespace) -> int:
    """Run `hqsam validate`."""
    from hqsam_export import checkpoint, validate

    model = checkpoint.load_model(args.checkpoint) if args.checkpoint else None
    validate.validate(args.folder, model, report=lambda line: print(line, flush=True))
    return 0
