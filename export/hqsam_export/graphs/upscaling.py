"""Upscaling and convolution, rewritten as operators that runtimes run fastest.

A transposed convolution whose stride is its kernel size touches every input pixel
once: it is a matrix product that gives each token a small square of pixels. In that
form the layer norm between two of them is an ordinary one over the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.modeling.layers import LayerNorm2d


class Upscaling(nn.Module):
    """Two transposed convolutions with norm and GELU between them: x 4 in height and width.

    If `gelu` is true, a second GELU follows.
    """

    def __init__(self, layers: nn.Sequential, gelu: bool = False) -> None:
        super().__init__()
        self.gelu = gelu
        first, norm, _, second = list(layers)[:4]
        assert isinstance(first, nn.ConvTranspose2d)  # noqa: S101 - narrows the type
        assert isinstance(second, nn.ConvTranspose2d)  # noqa: S101
        assert isinstance(norm, LayerNorm2d)  # noqa: S101
        self.first_weight, self.first_bias = _as_linear(first)
        self.second_weight, self.second_bias = _as_linear(second)
        self.norm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, 4096, C] to pixels [B, 256, 256, D].

        Rows are moved to their places after each convolution, while they are contiguous.
        """
        x = _widen(tokens @ self.first_weight + self.first_bias, 64)  # [B, 128, 128, M]
        norm = self.norm
        x = functional.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        x = functional.gelu(x).flatten(1, 2)  # [B, 16384, M]
        x = x @ self.second_weight + self.second_bias  # [B, 16384, 4 * D]
        # Before the pixels move: runtimes fuse it into the product.
        return _widen(functional.gelu(x) if self.gelu else x, 128)  # [B, 256, 256, D]


def _widen(squares: Tensor, side: int) -> Tensor:
    """Put squares of 2 x 2 pixels [B, side * side, 4 * D] in place: [B, 2 * side, 2 * side, D]."""
    x = squares.reshape(-1, side, 2, squares.shape[-1] // 2)
    x = x.transpose(1, 2)  # [B * side, 2, side, 2 * D]
    return x.reshape(-1, 2 * side, 2 * side, squares.shape[-1] // 4)


def _as_linear(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return weight [C, 4 * D] and bias [4 * D] of a 2 x 2 transposed convolution."""
    weight = convolution.weight.detach().permute(0, 2, 3, 1).flatten(1)  # [C, 2 * 2 * D]
    bias = convolution.bias
    assert bias is not None  # noqa: S101
    return weight, bias.detach().repeat(4)


def channels_first(x: Tensor) -> Tensor:
    """Map [B, H, W, C] to [B, C, H, W]."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """Map [B, C, H, W] to [B, H, W, C]."""
    return x.permute(0, 2, 3, 1)


class HQMask(nn.Module):
    """Computes the HQ mask from upscaled features, with the sum over channels done first.

    The HQ mask is the product of a kernel, one number per channel, with the sum of the
    image's `hq_features` and a convolution of the prompt's features. That convolution's
    last layer is linear, so the kernel can be multiplied into its weights first: one
    output channel is computed instead of 32, a quarter of the whole decoder's arithmetic.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        first, norm, _, second = layers
        assert isinstance(first, nn.Conv2d)  # noqa: S101
        assert isinstance(second, nn.Conv2d)  # noqa: S101
        assert isinstance(norm, LayerNorm2d)  # noqa: S101
        assert first.bias is not None  # noqa: S101
        assert second.bias is not None  # noqa: S101
        self.first, self.norm = first, norm
        # [D, M, 3, 3] -> [D, 9 * M]
        self.second_weight = second.weight.detach().permute(0, 2, 3, 1).flatten(1)
        self.second_bias = second.bias.detach().reshape(-1, 1)  # [D, 1]
        # Adds up nine maps, each moved by its place in the 3 x 3 kernel.
        self.sum_of_taps = torch.eye(9).reshape(1, 9, 3, 3)

    def forward(self, kernels: Tensor, pixels: Tensor, hq_features: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            kernels: [P, 1, 32], the HQ token's.
            pixels: [P, 256, 256, 32], upscaled from image tokens and prompt.
            hq_features: [1, 32, 256, 256], the image's.

        Returns:
            [P, 1, 256, 256].
        """
        x = channels_last(self.first(channels_first(pixels))).flatten(1, 2)  # [P, 65536, M]
        norm = self.norm
        x = functional.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        x = functional.gelu(x)
        taps = (kernels @ self.second_weight).reshape(-1, 9, x.shape[-1])  # [P, 9, M]
        maps = x @ taps.transpose(1, 2)  # [P, 65536, 9]
        maps = channels_first(maps.unflatten(1, (256, 256)))  # [P, 9, 256, 256]
        logits = functional.conv2d(maps, self.sum_of_taps, padding=1)  # [P, 1, 256, 256]
        image = kernels @ hq_features.flatten(2) + kernels @ self.second_bias  # [P, 1, 65536]
        return logits + image.unflatten(-1, (256, 256))
