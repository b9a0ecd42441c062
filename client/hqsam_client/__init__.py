"""Thin client for HQ-SAM served by NVIDIA Triton."""

from hqsam_client._errors import HQSamError

__all__ = ["HQSamError"]
