"""The small model that comes with the package: to try things and to test, not for photographs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hqsam_export import repository
from hqsam_export.errors import ExportError

FOLDER = Path(__file__).parent / "small"
"""Its ONNX files and their manifest, as `hqsam export` wrote them."""


def write(output: Path, *, link: bool = False) -> None:
    """Write the small model as a model repository.

    Args:
        output: a folder that does not exist yet, or is empty.
        link: write links to the ONNX files instead of copies. Their compiled forms are cached
            by path, so links are compiled once only.

    Raises:
        ExportError: the folder cannot be written, or is not empty.
    """
    if output.is_dir() and any(output.iterdir()):
        raise ExportError(f"{output} is not empty: choose another folder")
    with repository.staging(output) as folder:
        for path in repository.template_files():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository.template() / path, folder / path)
        copy = os.symlink if link else shutil.copy2
        shutil.copytree(FOLDER, folder, copy_function=copy, dirs_exist_ok=True)
