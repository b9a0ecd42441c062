"""The image encoder: a plain ViT with windowed and global attention, and a neck."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.modeling.layers import MLPBlock, neck
from hqsam_export.modeling.windows import merge_windows, split_windows

GRID = 64
"""Tokens along each side of the image."""

WINDOW = 14
"""Tokens along each side of an attention window."""


class ImageEncoder(nn.Module):
    """ViT of `depth` blocks: attention in windows, global in `global_blocks`."""

    def __init__(
        self, width: int, depth: int, heads: int, global_blocks: tuple[int, ...], out_channels: int
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID, GRID, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, window=0 if index in global_blocks else WINDOW)
            for index in range(depth)
        )
        self.neck = neck(width, out_channels)

    def forward(
        self, images: Tensor, corners: list[tuple[int, int]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode images, or squares of images.

        Args:
            images: float [B, 3, 1024, 1024], RGB, normalised, padded. Training also gives
                smaller squares [B, 3, 16 * S, 16 * S].
            corners: the first row and column of tokens that each smaller square covers in
                the input frame.

        Returns:
            `image_embeddings` [B, 256, S, S] and `interm_embeddings` [G, B, S, S, width],
            the outputs of the G blocks with global attention; S is 64 for a whole image.
        """
        x = self.patch_embed(images)  # [B, S, S, C]
        x = x + (self.pos_embed if corners is None else take(self.pos_embed, corners, x.shape[1]))
        interm = []
        for block in self.blocks:
            x = block(x)
            if block.window == 0:
                interm.append(x)
        return self.neck(x.permute(0, 3, 1, 2)), torch.stack(interm)


class PatchEmbed(nn.Module):
    """Splits the image into tokens of 16 x 16 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=16, stride=16)

    def forward(self, image: Tensor) -> Tensor:
        """Map [B, 3, 16 * S, 16 * S] to [B, S, S, C]."""
        x: Tensor = self.proj(image)  # [B, C, S, S]
        return x.permute(0, 2, 3, 1)


class Block(nn.Module):
    """A transformer block; `window` is 0 where its attention is global."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, window or GRID)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLPBlock(width, 4 * width, functional.gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, S, S, C] to tokens [B, S, S, C]."""
        y = self.norm1(x)
        if self.window:
            y = merge_windows(self.attn(split_windows(y, self.window)), self.window, x.shape[1])
        else:
            y = self.attn(y)
        x = x + y
        x = x + self.mlp(self.norm2(x))
        return x


class Attention(nn.Module):
    """Self-attention over an S x S square with decomposed relative positions."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, S, C] to [B, S, S, C]."""
        batch, side, _, width = x.shape
        tokens = side * side
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, S*S, D]
        square = q.reshape(batch, self.heads, side, side, -1)  # [B, heads, S, S, D]
        bias_h = torch.einsum("bnhwd,hkd->bnhwk", square, relative_table(self.rel_pos_h, side))
        bias_w = torch.einsum("bnhwd,wkd->bnhwk", square, relative_table(self.rel_pos_w, side))
        bias = bias_h[..., :, None] + bias_w[..., None, :]  # [B, heads, S, S, S, S]
        bias = bias.reshape(batch, self.heads, tokens, tokens)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # [B, heads, S*S, D]
        y = self.proj(y.transpose(1, 2).reshape(batch, side, side, width))
        return y


def relative_table(rel_pos: Tensor, side: int) -> Tensor:
    """Spread relative positions, at least [2S-1, D], to a table [S, S, D] of query and key.

    As in MViTv2 (arXiv 2112.01526): row q, column k holds the entry of q - k.
    """
    positions = torch.arange(side, device=rel_pos.device)
    return rel_pos[positions[:, None] - positions[None, :] + rel_pos.shape[0] // 2]


def take(table: Tensor, corners: list[tuple[int, int]], side: int) -> Tensor:
    """Cut squares [B, side, side, C] out of [1, S, S, C]; corners are (row, column)."""
    return torch.cat([table[:, row : row + side, col : col + side] for row, col in corners])
