"""`hqsam clean`."""

from __future__ import annotations

import argparse

from hqsam_cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam clean`."""
    parser.add_argument(
        "folder",
        type=options.path,
        nargs="?",
        default="model_repository",
        metavar="FOLDER",
        help="the model repository (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Remove what `hqsam export` generated, and print what was removed and what was kept."""
    from hqsam_export import repository

    for path, removed in repository.clean(args.folder):
        print(f"{'removed' if removed else 'kept, changed since the export:'} {path}")
    return 0
