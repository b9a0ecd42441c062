"""Runs the `hqsam` command as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hqsam_testing import command

TIMEOUT_S = 300.0


def hqsam(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    largest_file_bytes: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `hqsam` and return its exit status and what it printed.

    Args:
        arguments: subcommand and options.
        environment: variables on top of this process's.
        largest_file_bytes: writing a larger file fails, as on a full disk.
    """

    prelude = ""
    if largest_file_bytes is not None:
        limits = (largest_file_bytes, largest_file_bytes)
        prelude = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, {limits}); "
    return command.run(
        command.hqsam(*arguments, prelude=prelude),
        timeout_s=TIMEOUT_S,
        env=os.environ | dict(environment or {}),
    )


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
