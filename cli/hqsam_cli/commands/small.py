"""`hqsam small`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam small`."""
    parser.epilog = (
        "The small model is for trying and testing: it learned from drawn scenes. Photographs "
        "deserve ViT-B; see hqsam fetch and hqsam export. To serve it: hqsam serve --small"
    )
    parser.add_argument("output", type=Path, metavar="FOLDER", help="where to write it")


def run(args: argparse.Namespace) -> int:
    """Run `hqsam small` and return the exit status."""
    from hqsam_server import small_model

    small_model.write(args.output)
    print(f"wrote the small model to {args.output}")
    return 0
