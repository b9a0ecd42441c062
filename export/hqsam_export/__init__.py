"""From an HQ-SAM checkpoint to verified ONNX files."""
