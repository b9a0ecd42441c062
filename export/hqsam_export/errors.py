"""The errors of fetching, exporting and validating.

::

    HQSamError
    └── ExportError
        ├── CheckpointError
        ├── FetchError
        └── VerificationError
"""

from __future__ import annotations

from hqsam_client import HQSamError


class ExportError(HQSamError):
    """A model repository cannot be written, read or cleaned; the message says what was changed."""


class CheckpointError(ExportError):
    """A checkpoint cannot be read, or does not hold an HQ-SAM model."""


class FetchError(ExportError):
    """A checkpoint cannot be downloaded, or is not the expected one."""


class VerificationError(ExportError):
    """An exported file does not compute what the model does, or was changed."""
