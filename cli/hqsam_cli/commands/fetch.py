"""`hqsam fetch`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam fetch`."""
    parser.add_argument(
        "source",
        nargs="?",
        help="a file or an http(s) URL (default: sam_hq_vit_b.pth of lkeab/hq-sam, 379 MB, "
        "from the Hugging Face hub or its cache)",
    )
    parser.add_argument(
        "--md5",
        metavar="DIGEST",
        help="digest that the file must have (default: the published one for "
        "sam_hq_vit_b.pth, none for other files)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `hqsam fetch`; the path goes to standard output, for scripts."""
    from hqsam_export.fetch import fetch

    print(fetch(args.source, args.md5))
    return 0
