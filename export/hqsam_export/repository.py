"""A model repository on disk: its template, its manifest, and writing it atomically."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hqsam_export._errors import ExportError

MANIFEST = "manifest.json"

_INTERM_DIMS = re.compile(r"(4,\s*1,\s*64,\s*64,\s*)\d+")


def template() -> Path:
    """Return the folder of the `config.pbtxt` files and Python models to start from."""
    packaged = Path(__file__).parent / "model_repository"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "model_repository"


def template_files() -> list[Path]:
    """Return the template's files, relative to `template()`."""
    root = template()
    return sorted(
        path.relative_to(root)
        for pattern in ("*/config.pbtxt", "*/configs/*.pbtxt", "*/1/*.py", "*/1/.gitkeep")
        for path in root.glob(pattern)
    )


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Give a folder to write into, and move what was written to `output` at the end.

    Nothing under `output` changes before the block has ended without an error; then
    each file replaces its predecessor in one step, the manifest last.

    Raises:
        ExportError: a file cannot be written; `output` is as it was.
    """
    created = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Inside `output`, so that the moves are renames on one file system.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=output) as folder:
            yield Path(folder)
            _publish(Path(folder), output)
        created = False
    except OSError as error:
        where = error.filename or output
        raise ExportError(
            f"cannot write {where}: {error.strerror or error}. Nothing was changed"
        ) from error
    finally:
        if created:
            shutil.rmtree(output, ignore_errors=True)


def _publish(folder: Path, output: Path) -> None:
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name == MANIFEST)
    for path in files:
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).replace(output / path)


def write_template(folder: Path, output: Path, interm_width: int) -> None:
    """Put the template's files into `folder` that `output` lacks or that differ in width.

    Args:
        folder: where to write.
        output: the repository; files that are there and fit are left alone.
        interm_width: last dimension of `interm_embeddings`, 768 for ViT-B.
    """
    for path in template_files():
        source = output / path if (output / path).is_file() else template() / path
        before = source.read_text(encoding="utf-8")
        after = before
        if path.suffix == ".pbtxt":
            after = _INTERM_DIMS.sub(rf"\g<1>{interm_width}", before)
        if after != before or not (output / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(after, encoding="utf-8")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(digests: dict[str, str]) -> str:
    """Return one digest for a set of files, given as {relative path: SHA-256}."""
    listing = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json`."""
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(repository: Path) -> dict[str, Any]:
    """Read `manifest.json`.

    Raises:
        ExportError: it is not there or not a manifest.
    """
    path = repository / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["files"].items()
    except FileNotFoundError as error:
        raise ExportError(f"{repository} has no {MANIFEST}: export into it first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} is not a manifest of hqsam export") from error
    return dict(manifest)
