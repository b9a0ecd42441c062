"""Options that the trainings share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every training."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--output", type=Path, required=True, help="folder for the results")
    options.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return options


def parsed(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, make the folder for the results, and seed PyTorch."""
    args = options.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    return args
