"""`hqsam fetch`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam fetch`."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a file or an http(s) URL (default: sam_hq_vit_b.pth of lkeab/hq-sam, 379 MB, "
        "from the Hugging Face hub or its cache)",
    )
    parser.add_argument(
        "--md5",
        metavar="DIGEST",
        help="the MD5 that the file must have (default: the published one for a file named "
        "sam_hq_vit_b.pth; other files are not checked)",
    )


def run(args: argparse.Namespace) -> int:
    """Fetch, and print the path alone on standard output, for scripts."""
    from hqsam_export.fetch import fetch

    print(fetch(args.source, args.md5))
    return 0
