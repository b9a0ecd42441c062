"""Starts Triton, watches it, restarts what died and cleans up."""
