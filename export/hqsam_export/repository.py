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

from hqsam_export.errors import ExportError

MANIFEST = "manifest.json"

VIT_B_WIDTH = 768
"""Last dimension of `interm_embeddings` in the template."""

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
    # Weights beside a graph that the new model, a smaller one, does not have.
    stale = _generated(output, "files").keys() - {str(path) for path in files}
    for path in files:
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).replace(output / path)
    for name in stale:
        (output / name).unlink(missing_ok=True)


def write_template(folder: Path, output: Path, interm_width: int) -> list[str]:
    """Put into `folder` the template's files that `output` lacks or that do not fit.

    Args:
        folder: where to write.
        output: the repository. Files there that no export wrote, or that were changed
            since, are left as they are but for the width of `interm_embeddings`.
        interm_width: last dimension of `interm_embeddings`, 768 for ViT-B.

    Returns:
        the files that the export answers for, relative to the repository.
    """
    generated = []
    earlier = _generated(output, "template_files")
    for path in template_files():
        ours = not (output / path).is_file() or earlier.get(str(path)) == file_digest(output / path)
        source = (template() if ours else output) / path
        before = source.read_text(encoding="utf-8")
        after = _with_width(path, before, interm_width)
        if ours or after != before:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(after, encoding="utf-8")
        if ours:
            generated.append(str(path))
    return generated


def _with_width(path: Path, text: str, interm_width: int) -> str:
    return _INTERM_DIMS.sub(rf"\g<1>{interm_width}", text) if path.suffix == ".pbtxt" else text


def _generated(repository: Path, kind: str) -> dict[str, str]:
    """Return what an earlier export wrote, as {relative path: SHA-256}; nothing if none did."""
    if not (repository / MANIFEST).is_file():
        return {}
    return dict(read_manifest(repository).get(kind, {}))


def clean(repository: Path) -> list[tuple[Path, bool]]:
    """Remove what `export` generated in a model repository, and nothing else.

    Files that were changed since stay, as do files that were there before. Configs that
    were there before get the width of ViT-B again.

    Returns:
        each generated file that was there and whether it was removed.

    Raises:
        ExportError: there is no manifest, so nothing was generated.
    """
    manifest = read_manifest(repository)
    generated = manifest["files"] | manifest.get("template_files", {})
    results = []
    for name, digest in generated.items():
        path = repository / name
        if path.is_file():
            unchanged = file_digest(path) == digest
            if unchanged:
                path.unlink()
            results.append((path, unchanged))
    (repository / MANIFEST).unlink()
    results.append((repository / MANIFEST, True))
    for path in template_files():
        if (repository / path).is_file():
            text = (repository / path).read_text(encoding="utf-8")
            if text != (restored := _with_width(path, text, VIT_B_WIDTH)):
                (repository / path).write_text(restored, encoding="utf-8")
    folders = {parent for name in generated for parent in (repository / name).parents}
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        if folder.is_relative_to(repository) and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return results


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
        for name in manifest["files"] | manifest.get("template_files", {}):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(name)
    except FileNotFoundError as error:
        raise ExportError(f"{repository} has no {MANIFEST}: export into it first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} is not a manifest of hqsam export") from error
    return dict(manifest)
