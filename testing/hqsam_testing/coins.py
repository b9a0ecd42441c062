"""The photograph of the demonstration, and what is in it."""

from __future__ import annotations

from pathlib import Path

COINS = Path(__file__).parents[2] / "demo" / "coins.png"
LABELS = Path(__file__).with_name("coins-labels.png")
"""A label map of its coins, uint8: 0 is background, each coin has a number."""
