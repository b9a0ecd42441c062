"""Embedded Triton, its ONNX backend and the embedding store."""
