"""Runs the `hqsam` command as a user does: in a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


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

    def limit() -> None:
        if largest_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))

    program = "import sys; from hqsam_cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=limit,
    )


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
