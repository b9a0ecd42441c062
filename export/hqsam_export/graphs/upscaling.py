"""Upscaling and convolution, rewritten as what runtimes run fastest.

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
    """Two transposed convolutions with norm and GELU between them: x 4 in height and width."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        first, norm, _, second = list(layers)[:4]
        assert isinstance(first, nn.ConvTranspose2d)  # noqa: S101 - narrows the type
        assert isinstance(second, nn.ConvTranspose2d)  # noqa: S101
        assert isinstance(norm, LayerNorm2d)  # noqa: S101
        self.first_weight, self.first_bias = _as_linear(first)
        self.second_weight, self.second_bias = _as_linear(second)
        self.norm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, 4096, C] to squares of 4 x 4 pixels [B, 4096, 4, 4 * D].

        The third axis tells the pixel of the first convolution's 2 x 2, the fourth that
        of the second's and the channel; `to_pixels` puts them in their places.
        """
        x = tokens @ self.first_weight + self.first_bias  # [B, 4096, 4 * M]
        x = x.unflatten(-1, (4, -1))  # [B, 4096, 4, M]
        norm = self.norm
        x = functional.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        x = functional.gelu(x)
        return x @ self.second_weight + self.second_bias  # [B, 4096, 4, 4 * D]


def _as_linear(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return weight [C, 4 * D] and bias [4 * D] of a 2 x 2 transposed convolution."""
    weight = convolution.weight.detach().permute(0, 2, 3, 1).flatten(1)  # [C, 2 * 2 * D]
    bias = convolution.bias
    assert bias is not None  # noqa: S101
    return weight, bias.detach().repeat(4)


def to_pixels(squares: Tensor) -> Tensor:
    """Put squares [B, 4096, 4, 4 * D] in their places: [B, 256, 256, D].

    Channels stay last: ONNX Runtime has fast paths for a transpose that leaves the last
    axis in place and for one that moves a single axis, and none for both at once.
    """
    x = squares.reshape(-1, 64, 64, 2, 2, 2, 2, squares.shape[-1] // 4)
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)  # [B, 64, 2, 2, 64, 2, 2, D]
    return x.reshape(-1, 256, 256, squares.shape[-1] // 4)


def channels_first(x: Tensor) -> Tensor:
    """Map [B, H, W, C] to [B, C, H, W]."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """Map [B, C, H, W] to [B, H, W, C]."""
    return x.permute(0, 2, 3, 1)


class HQMask(nn.Module):
    """The HQ mask from upscaled features, without computing what only its sum needs.

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
        weight, bias = first.weight.detach(), first.bias.detach()
        # The norm takes the mean over channels away: that is linear, so it goes in here.
        self.first_weight = weight - weight.mean(dim=0, keepdim=True)
        self.first_bias = bias - bias.mean()
        channels = len(bias)
        self.epsilon = norm.eps * channels
        self.scale = (norm.weight.detach() * channels**0.5).reshape(1, -1, 1, 1)
        self.shift = norm.bias.detach().reshape(1, -1, 1, 1)
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
        features = channels_first(pixels)  # [P, 32, 256, 256]
        x = functional.conv2d(features, self.first_weight, self.first_bias, padding=1)
        squares = (x * x).sum(dim=1, keepdim=True)  # [P, 1, 256, 256]
        x = x / (squares + self.epsilon).sqrt() * self.scale + self.shift
        x = functional.gelu(x)  # [P, 64, 256, 256]
        taps = (kernels @ self.second_weight).reshape(-1, 9, x.shape[1])  # [P, 9, 64]
        maps = (taps @ x.flatten(2)).unflatten(-1, (256, 256))  # [P, 9, 256, 256]
        logits = functional.conv2d(maps, self.sum_of_taps, padding=1)  # [P, 1, 256, 256]
        image = kernels @ hq_features.flatten(2) + kernels @ self.second_bias  # [P, 1, 65536]
        return logits + image.unflatten(-1, (256, 256))
