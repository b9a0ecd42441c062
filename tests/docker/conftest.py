"""A running server with a tiny model."""

from __future__ import annotations

from hqsam_testing.servers import tiny_server, tiny_store

__all__ = ["tiny_server", "tiny_store"]
