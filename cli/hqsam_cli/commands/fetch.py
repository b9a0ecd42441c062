"""`hqsam fetch`."""

from __future__ import annotations

import argparse

from hqsam_cli.options import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam fetch`."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a file or an http(s) URL (default: a checkpoint of lkeab/hq-sam, from the Hugging "
        "Face hub or its cache)",
    )
    parser.add_argument(
        "--model",
        choices=("light", "b", "l", "h"),
        help="which checkpoint of the hub: sam_hq_vit_tiny.pth (light), sam_hq_vit_b.pth (379 MB), "
        "sam_hq_vit_l.pth or sam_hq_vit_h.pth (default: b)",
    )
    parser.add_argument(
        "--md5",
        metavar="DIGEST",
        help="the MD5 that the file must have (default: the published one for a file named "
        "sam_hq_vit_b.pth, for others of the hub the SHA-256 that it states; other files are not "
        "checked)",
    )


def run(args: argparse.Namespace) -> int:
    """Fetch, and print the path alone on standard output, for scripts."""
    from hqsam_export.fetch import fetch

    if args.source is not None and args.model is not None:
        raise UsageError("a source and --model were both given: expected one of them")
    print(fetch(args.source, args.md5, model=args.model or "b"))
    return 0
