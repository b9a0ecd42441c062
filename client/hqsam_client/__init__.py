"""Thin client for HQ-SAM served by NVIDIA Triton."""
