"""Runs the `hqsam` command in this process."""

from __future__ import annotations

from pathlib import Path

from hqsam_cli.main import main


def hqsam(*arguments: str | Path) -> int:
    """Run `hqsam` and return its exit status, also where argparse exits."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exited:
        assert isinstance(exited.code, int)
        return exited.code
