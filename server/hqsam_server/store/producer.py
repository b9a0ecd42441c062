"""What computed an embedding: the weights, and the backend and precision that ran them.

Servers of different weights or precision may share a store. The digest made here is part of each
entry's key, so none of them answers with another one's embeddings. It leaves out the decoder, on
which no embedding depends. The *fingerprint* in manifest.json is that of all ONNX files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from hqsam_export import repository as exported
from hqsam_export.errors import ExportError

from hqsam_server.errors import StoreError

_MODELS = ("encoder", "features")


def producer(repository: Path, computed_by: str) -> str:
    """Return 64 hex digits that stand for what computes the embeddings of a server.

    Args:
        repository: the model repository. Digests of its files are read from manifest.json; without
            one they are computed, which takes a second or two.
        computed_by: the backend and precision of encoder and features.

    Raises:
        StoreError: the repository has neither a readable manifest nor ONNX files.
    """
    weights = exported.fingerprint(_digests(repository))
    return hashlib.sha256(f"{weights} {computed_by}".encode()).hexdigest()


def _digests(repository: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of encoder and features, by its relative path."""
    try:
        if (repository / exported.MANIFEST).is_file():
            files = exported.read_manifest(repository)["files"]
            digests = {name: digest for name, digest in files.items() if _model(name) in _MODELS}
        else:
            digests = {
                str(path.relative_to(repository)): exported.file_digest(path)
                for model in _MODELS
                for path in (repository / model).glob("[0-9]*/*")
            }
    except (OSError, ExportError) as error:
        raise _unknown(repository, str(error)) from error
    if {_model(name) for name in digests} != set(_MODELS):
        raise _unknown(repository, "files of encoder or features are missing")
    return digests


def _model(name: str) -> str:
    return Path(name).parts[0]


def _unknown(repository: Path, reason: str) -> StoreError:
    return StoreError(
        f"the weights in {repository} cannot be identified: {reason}; expected the files and "
        "manifest.json of hqsam export: run it again"
    )
