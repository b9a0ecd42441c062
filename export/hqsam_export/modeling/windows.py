"""Squares of tokens in which attention is computed."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def split_windows(x: Tensor, window: int) -> Tensor:
    """Cut [B, S, S, C] into windows [B * W * W, window, window, C], padded with zeros."""
    padding = -x.shape[1] % window
    count = (x.shape[1] + padding) // window
    x = functional.pad(x, (0, 0, 0, padding, 0, padding))
    x = x.reshape(-1, window, count, window, x.shape[-1]).transpose(1, 2)
    return x.reshape(-1, window, window, x.shape[-1])


def merge_windows(x: Tensor, window: int, side: int) -> Tensor:
    """Undo `split_windows`: [B * W * W, window, window, C] to [B, side, side, C]."""
    count = (side + -side % window) // window
    x = x.reshape(-1, count, window, window, x.shape[-1]).transpose(1, 2)
    x = x.reshape(-1, count * window, count * window, x.shape[-1])
    return x[:, :side, :side]
