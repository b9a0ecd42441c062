"""`hqsam small`."""

from __future__ import annotations

import argparse

from hqsam_cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam small`."""
    parser.epilog = (
        "The small model is for trying things out and for tests: it was trained on drawn scenes. "
        "For photographs use ViT-B (hqsam fetch, hqsam export). hqsam serve --small serves the "
        "small model without writing it."
    )
    parser.add_argument("output", type=options.path, metavar="FOLDER", help="where to write it")


def run(args: argparse.Namespace) -> int:
    """Write the small model."""
    from hqsam_server import small_model

    small_model.write(args.output)
    print(f"wrote the small model to {args.output}")
    return 0
