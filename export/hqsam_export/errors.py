"""What can go wrong in an export.

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
    """An export could not be done; files of an earlier one are untouched."""


class CheckpointError(ExportError):
    """A checkpoint cannot be read, or does not hold an HQ-SAM model."""


class FetchError(ExportError):
    """A checkpoint cannot be downloaded, or is not the one that was meant."""


class VerificationError(ExportError):
    """A file that was written does not do what the model does."""
