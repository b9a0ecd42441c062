"""From an HQ-SAM checkpoint to verified ONNX files in a Triton model repository."""

import os

from hqsam_export.errors import CheckpointError, ExportError, FetchError, VerificationError

__all__ = ["CheckpointError", "ExportError", "FetchError", "VerificationError"]

# As in `hqsam_server`, before anything here imports ONNX Runtime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
