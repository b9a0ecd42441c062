"""A model repository on disk: its template, its manifest, and writing it atomically."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hqsam_export.errors import ExportError

MANIFEST = "manifest.json"

VIT_B_SHAPE = (4, 1, 64, 64, 768)
"""Shape of `interm_embeddings` in the template."""

_EARLIER = "earlier"
"""Inside the folder that is published: the files that it replaces, until all are."""

_INTERM_DIMS = re.compile(r"\d+(,\s*1,\s*64,\s*64,\s*)\d+")


def template() -> Path:
    """Return the folder of the `config.pbtxt` files and Python models that exports start from."""
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

    Nothing in `output` changes unless the block ends without an error. Then each new file
    replaces the earlier one, the manifest last. If one of them cannot be replaced, those
    that were are put back.

    Raises:
        ExportError: a file cannot be written. The message says whether `output` is as it
            was, or else which files are not and where the earlier ones are.
    """
    missing = [folder for folder in (output, *output.parents) if not folder.exists()]
    folder = None
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Inside `output`, so that moving a file is a rename on one file system.
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=output))
        yield folder
        _Publication(folder, output).run()
        missing = []
    except _RollbackError as error:
        folder, missing = None, []
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(
            f"cannot write {error.filename or output}: {error.strerror or error}. "
            "Nothing was changed: correct that, then run the command again"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)


class _RollbackError(Exception):
    """A repository is half new and half old."""


class _Publication:
    """Moves the files of a folder over those of a repository: all of them, or none."""

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder = folder
        self._output = output
        self._earlier = folder / _EARLIER
        self._touched: list[Path] = []

    def run(self) -> None:
        """Publish.

        Raises:
            OSError: a file cannot be replaced; the repository is as it was.
            _RollbackError: nor could the earlier files be put back.
        """
        paths = [path for path in self._folder.rglob("*") if path.is_file()]
        files = sorted(path.relative_to(self._folder) for path in paths)
        files.sort(key=lambda path: path.name == MANIFEST)
        # Such as the separate weights of a larger model that was exported here before.
        stale = _generated(self._output, "files").keys() - {str(path) for path in files}
        try:
            for name in stale:
                self._set_aside(Path(name))
                (self._output / name).unlink(missing_ok=True)
            for path in files:
                self._set_aside(path)
                (self._folder / path).replace(self._output / path)
        except BaseException as error:
            self._roll_back(error)
            raise

    def _set_aside(self, path: Path) -> None:
        """Keep the earlier file, and leave it in place where the file system can."""
        source, kept = self._output / path, self._earlier / path
        source.parent.mkdir(parents=True, exist_ok=True)
        if source.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            try:
                kept.hardlink_to(source)
            except OSError:
                if not source.is_file():
                    raise
                source.rename(kept)
        # From here on the earlier file is safe: rolling back may remove the new one.
        self._touched.append(path)

    def _roll_back(self, cause: BaseException) -> None:
        left = []
        for path in self._touched:
            kept = self._earlier / path
            try:
                if kept.exists():
                    kept.replace(self._output / path)
                elif (self._output / path).is_file():
                    (self._output / path).unlink()
            except OSError:
                left.append(str(path))
        if left:
            raise _RollbackError(
                f"{self._output} is not usable: {cause}, and then {', '.join(left)} could not be "
                f"put back. The earlier files are in {self._earlier}: copy them, or export again"
            ) from cause


def write_template(folder: Path, output: Path, interm_shape: tuple[int, ...]) -> list[str]:
    """Write to `folder` the template's files that `output` lacks or that do not fit.

    Args:
        folder: where to write.
        output: the repository. In files there that no export wrote, or that were changed
            since, only the shape of `interm_embeddings` is adapted.
        interm_shape: of `interm_embeddings`.

    Returns:
        the files that are the export's own, relative to the repository.
    """
    generated = []
    earlier = _generated(output, "template_files")
    for path in template_files():
        ours = not (output / path).is_file() or earlier.get(str(path)) == file_digest(output / path)
        source = (template() if ours else output) / path
        before = source.read_text(encoding="utf-8")
        after = _with_shape(path, before, interm_shape)
        if ours or after != before:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(after, encoding="utf-8")
        if ours:
            generated.append(str(path))
    return generated


def _with_shape(path: Path, text: str, interm_shape: tuple[int, ...]) -> str:
    if path.suffix != ".pbtxt":
        return text
    return _INTERM_DIMS.sub(rf"{interm_shape[0]}\g<1>{interm_shape[-1]}", text)


def _generated(repository: Path, kind: str) -> dict[str, str]:
    """Return what an earlier export wrote, as {relative path: SHA-256}."""
    if not (repository / MANIFEST).is_file():
        return {}
    return dict(read_manifest(repository).get(kind, {}))


def clean(repository: Path) -> list[tuple[Path, bool]]:
    """Remove what `export` generated in a model repository, and nothing else.

    Files that were changed since are kept, and so are files that were there before; configs
    among those get the shapes of ViT-B again.

    Returns:
        each generated file that was found, and whether it was removed.

    Raises:
        ExportError: there is no manifest, so nothing was generated; or a folder is a link, which
            may lead to files of others; or a file cannot be removed. Cleaning again goes on from
            there.
    """
    manifest = read_manifest(repository)
    _refuse_links(repository, manifest["files"] | manifest.get("template_files", {}))
    try:
        results = _remove(repository, manifest["files"] | manifest.get("template_files", {}))
        _restore_shape(repository)
    except OSError as error:
        raise ExportError(
            f"cannot change {error.filename or repository}: {error.strerror or error}. "
            "Make it writable, then clean again"
        ) from error
    return results


def _refuse_links(repository: Path, generated: Iterable[str]) -> None:
    """Raise `ExportError` if the repository, or one of its folders that files are in, is a link."""
    inside = {parent for name in generated for parent in Path(name).parents}  # with ""
    for folder in sorted(inside):
        if (repository / folder).is_symlink():
            raise ExportError(
                f"{repository / folder} is a link, and nothing was removed: clean the repository "
                "that it leads to, or remove the link"
            )


def _remove(repository: Path, generated: dict[str, str]) -> list[tuple[Path, bool]]:
    """Remove what is as it was generated, the manifest last, and folders that are then empty."""
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
    folders = {parent for name in generated for parent in (repository / name).parents}
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        if folder.is_relative_to(repository) and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return results


def _restore_shape(repository: Path) -> None:
    """Give the configs that are left the shapes of ViT-B again."""
    for path in template_files():
        if (repository / path).is_file():
            text = (repository / path).read_text(encoding="utf-8")
            if text != (restored := _with_shape(path, text, VIT_B_SHAPE)):
                (repository / path).write_text(restored, encoding="utf-8")


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
    """Read `manifest.json`, the record of an export.

    ``files`` and ``template_files`` map relative paths to SHA-256; the paths are checked to
    stay inside the repository. ``fingerprint`` is that of ``files``; see `fingerprint`.

    Raises:
        ExportError: there is none, or it is damaged.
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
        raise ExportError(f"{path} is not a manifest of hqsam export: export again") from error
    return dict(manifest)
