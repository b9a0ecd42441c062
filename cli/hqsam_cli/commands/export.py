"""`hqsam export`."""

from __future__ import annotations

import argparse
import sys

from hqsam_cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam export`."""
    parser.add_argument(
        "--checkpoint",
        type=options.path,
        required=True,
        metavar="FILE",
        help="sam_hq_vit_b.pth (or _tiny, _l, _h), or a folder that transformers saved",
    )
    parser.add_argument(
        "--output",
        type=options.path,
        default="model_repository",
        metavar="FOLDER",
        help="the model repository to write into (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "fp16-weights"),
        default="fp32",
        help="fp16 and fp16-weights halve the files; inputs and outputs stay float32. fp16 is for "
        "GPUs (default: %(default)s)",
    )
    options.add_attention_biases(parser)


def run(args: argparse.Namespace) -> int:
    """Export, and print the fingerprint of the new files."""
    from hqsam_export import checkpoint, exporter

    model = checkpoint.load_model(args.checkpoint, args.attention_biases)
    if model.has_attention_biases and not args.attention_biases:
        print(
            "this model's attention biases are left out, as build_sam_vit_t leaves them; the "
            "authors' demo adds them, and so does --attention-biases",
            file=sys.stderr,
        )
    manifest = exporter.export(
        model, args.output, args.precision, report=lambda line: print(line, flush=True)
    )
    name = manifest["model"] or "a model of another size"
    print(f"{args.output}: {name}, fingerprint {manifest['fingerprint']}")
    return 0
