"""From an HQ-SAM checkpoint to verified ONNX files in a Triton model repository."""

from hqsam_export.errors import CheckpointError, ExportError, FetchError, VerificationError

__all__ = ["CheckpointError", "ExportError", "FetchError", "VerificationError"]
