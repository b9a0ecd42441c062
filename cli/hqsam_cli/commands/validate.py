"""`hqsam validate`."""

from __future__ import annotations

import argparse

from hqsam_cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam validate`."""
    parser.add_argument("folder", type=options.path, metavar="FOLDER", help="the model repository")
    parser.add_argument(
        "--checkpoint",
        type=options.path,
        metavar="FILE",
        help="also compare each file with PyTorch on these weights",
    )
    options.add_attention_biases(parser)


def run(args: argparse.Namespace) -> int:
    """Check the files, and print a line for each check that passes."""
    from hqsam_export import checkpoint, validate

    model = None
    if args.checkpoint:
        model = checkpoint.load_model(args.checkpoint, args.attention_biases)
    validate.validate(args.folder, model, report=lambda line: print(line, flush=True))
    return 0
