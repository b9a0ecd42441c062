"""`hqsam clean`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam clean`."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("model_repository"),
        metavar="FOLDER",
        help="the model repository (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `hqsam clean`."""
    from hqsam_export import repository

    for path, removed in repository.clean(args.folder):
        print(f"{'removed' if removed else 'kept, it was changed since:'} {path}")
    return 0
