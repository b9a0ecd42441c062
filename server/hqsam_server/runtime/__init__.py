"""Runs ONNX files where Triton has no C++ backend for them."""
