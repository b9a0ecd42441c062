"""Layers that encoder and decoder share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a [B, C, H, W] tensor."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W] over C; the shape stays."""
        x = x.permute(0, 2, 3, 1)  # [B, H, W, C]
        x = functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # [B, C, H, W]


class MLPBlock(nn.Module):
    """The two linear layers of a transformer block."""

    def __init__(
        self, width: int, hidden_width: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden_width)
        self.lin2 = nn.Linear(hidden_width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        x = self.lin2(self.activation(self.lin1(x)))
        return x


class MLP(nn.Module):
    """Three linear layers with ReLU between them: SAM's heads and hypernetworks."""

    def __init__(self, width: int, output_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, output_width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., output_width]."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        x = self.layers[-1](x)
        return x


def neck(width: int, out_channels: int) -> nn.Sequential:
    """Return the layers from an encoder's [B, width, S, S] to [B, out_channels, S, S]."""
    return nn.Sequential(
        nn.Conv2d(width, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
