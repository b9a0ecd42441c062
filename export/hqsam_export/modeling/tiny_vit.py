"""The image encoder of Light HQ-SAM: TinyViT (arXiv 2207.10666), and a neck.

Convolutions first, then attention in windows, whose tokens are padded with zeros where a window
reaches over the edge. The padding precedes the normalisation, so padded tokens are not zero
inside attention, and every token of the window attends to them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.modeling.layers import neck
from hqsam_export.modeling.windows import merge_windows, split_windows

WIDTHS = (64, 128, 160, 320)
"""Channels of the four stages; the first is made of convolutions alone."""

DEPTHS = (2, 2, 6, 2)
"""Blocks of the four stages."""

HEADS = (2, 4, 5, 10)
"""Attention heads of the four stages."""

WINDOWS = (7, 7, 14, 7)
"""Tokens along each side of an attention window, for the four stages."""

STRIDES = (2, 2, 1)
"""Steps between the first three stages and the next: the last stage keeps the third's size."""

EXPANSION = 4
"""Hidden channels of a block, as a multiple of its width."""

INTERM_STAGE = 1
"""The stage whose output, after its step to the next, is the intermediate embedding."""

INTERM_WIDTH = WIDTHS[INTERM_STAGE + 1]
"""Channels of the intermediate embedding."""


class TinyViTEncoder(nn.Module):
    """TinyViT-5M, whose last stage has 16 x 16 pixels to a token, and the neck of SAM."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(WIDTHS[0])
        self.layers = nn.ModuleList(Stage(index) for index in range(len(WIDTHS)))
        self.neck = neck(WIDTHS[-1], out_channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images of any side that is a multiple of 16; S is a sixteenth of it.

        Args:
            images: float [B, 3, 16 * S, 16 * S], RGB, normalised, padded.

        Returns:
            `image_embeddings` [B, 256, S, S] and `interm_embeddings` [1, B, S, S, 160].
        """
        x = self.patch_embed(images)  # [B, 64, 4 * S, 4 * S]
        interm = x
        for index, stage in enumerate(self.layers):
            x = stage(x)
            if index == INTERM_STAGE:
                interm = x  # [B, 160, S, S]
        return self.neck(x), interm.permute(0, 2, 3, 1)[None]


class ConvNorm(nn.Module):
    """A convolution without bias, and batch normalisation."""

    def __init__(
        self, inner: int, outer: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inner, H, W] to [B, outer, H / stride, W / stride]."""
        y: Tensor = self.bn(self.c(x))
        return y


class PatchEmbed(nn.Module):
    """Two convolutions from pixels to the first stage's squares of 4 x 4 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, kernel=3, stride=2),
            nn.GELU(),
            ConvNorm(width // 2, width, kernel=3, stride=2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, 3, 4 * H, 4 * W] to [B, width, H, W]."""
        y: Tensor = self.seq(images)
        return y


class Stage(nn.Module):
    """The blocks of one size and the step to the next stage, if there is one."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width = WIDTHS[index]
        self.blocks = nn.ModuleList(
            AttentionBlock(width, HEADS[index], WINDOWS[index]) if index else ConvBlock(width)
            for _ in range(DEPTHS[index])
        )
        last = index + 1 == len(WIDTHS)
        self.downsample = (
            nn.Identity() if last else Downsample(width, WIDTHS[index + 1], STRIDES[index])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the next stage's [B, D, H / stride, W / stride]."""
        for block in self.blocks:
            x = block(x)
        x = self.downsample(x)
        return x


class ConvBlock(nn.Module):
    """An inverted bottleneck (MBConv): widen, convolve each channel, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = EXPANSION * width
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, kernel=3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W]."""
        y = functional.gelu(self.conv1(x))
        y = functional.gelu(self.conv2(y))
        return functional.gelu(x + self.conv3(y))


class Downsample(nn.Module):
    """The step between two stages: widen, convolve each channel with `stride`, mix."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inner, outer)
        self.conv2 = ConvNorm(outer, outer, kernel=3, stride=stride, groups=outer)
        self.conv3 = ConvNorm(outer, outer)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inner, H, W] to [B, outer, H / stride, W / stride]."""
        x = functional.gelu(self.conv1(x))
        x = functional.gelu(self.conv2(x))
        x = self.conv3(x)
        return x


class AttentionBlock(nn.Module):
    """Attention in windows, a convolution of each channel, and an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = ConvNorm(width, width, kernel=3, groups=width)
        self.mlp = NormMLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, S, S] to [B, C, S, S]."""
        tokens = x.permute(0, 2, 3, 1)  # [B, S, S, C]
        windows = split_windows(tokens, self.window)  # [B * W * W, window, window, C]
        y = self.attn(windows.flatten(1, 2)).reshape(windows.shape)
        tokens = tokens + merge_windows(y, self.window, tokens.shape[1])
        x = self.local_conv(tokens.permute(0, 3, 1, 2))  # [B, C, S, S]
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + self.mlp(tokens)
        return tokens.permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Self-attention in a window; a bias for each head and distance along rows and columns."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """Map windows [M, N, C] of N = window * window tokens to [M, N, C]."""
        count, tokens, width = x.shape
        # The columns are ordered by head first, and within a head by q, k and v.
        qkv = self.qkv(self.norm(x)).reshape(count, tokens, self.heads, 3, -1)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)  # each [M, heads, N, D]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias().to(q.dtype))
        y = self.proj(y.transpose(1, 2).reshape(count, tokens, width))
        return y

    def bias(self) -> Tensor:
        """Return what is added to the scores of query and key: [heads, N, N]."""
        columns = bias_columns(self.window, self.attention_biases.device)
        return self.attention_biases[:, columns]


class NormMLP(nn.Module):
    """Layer normalisation and the two linear layers of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        x = self.fc2(functional.gelu(self.fc1(self.norm(x))))
        return x


def bias_columns(window: int, device: torch.device) -> Tensor:
    """Return the column of `attention_biases` for each query and key: int [N, N].

    A column stands for a distance in rows and columns of tokens. They are numbered as the first
    token meets them, row by row: the distance (r, c) has column r * window + c.
    """
    positions = torch.arange(window, device=device)
    distance = (positions[:, None] - positions[None, :]).abs()  # [window, window]
    columns = distance[:, None, :, None] * window + distance[None, :, None, :]
    return columns.reshape(window * window, window * window)
