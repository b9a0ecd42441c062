"""Which weights a model repository holds."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from hqsam_server.errors import StoreError

# What an embedding depends on.
_FILES = ("encoder/1/model.onnx", "features/1/model.onnx")


def fingerprint(repository: Path) -> str:
    """Return 64 hex digits that stand for the weights which embeddings are made with.

    They are those that `hqsam export` left in manifest.json, or else a digest of the
    ONNX files, which takes a second or two.

    Raises:
        StoreError: there is neither a readable manifest nor an ONNX file.
    """
    manifest = repository / "manifest.json"
    try:
        if manifest.is_file():
            return _from_manifest(manifest)
        digest = hashlib.sha256()
        for name in _FILES:
            with (repository / name).open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise StoreError(
            f"the weights in {repository} cannot be told from others: {error}; "
            "expected a manifest.json there, or the ONNX files: run hqsam export"
        ) from error


def _from_manifest(manifest: Path) -> str:
    try:
        found = str(json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{manifest} is no manifest of hqsam export: run it again") from error
    if not re.fullmatch("[0-9a-f]{64}", found):
        raise StoreError(f"{manifest} has the fingerprint {found!r}, expected 64 hex digits")
    return found
