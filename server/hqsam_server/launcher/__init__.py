"""Starts Triton, watches it, restarts what dies and cleans up."""
