"""The image encoder, with scale and relative positions folded into its weights."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.graphs.tiny_vit import TinyViTGraph
from hqsam_export.modeling import HQSamModel, TinyViT
from hqsam_export.modeling.image_encoder import (
    GRID,
    Attention,
    Block,
    ImageEncoder,
    relative_table,
)
from hqsam_export.modeling.tiny_vit import TinyViTEncoder
from hqsam_export.modeling.windows import merge_windows, split_windows

GLOBAL_BLOCKS = 4
"""Number of intermediate embeddings in the contract; those of a ViT with fewer are zeros."""

MIN_VIT_WIDTH = 768
"""Width of the contract's intermediate embeddings; a narrower ViT's are padded with zeros."""


def interm_shape(model: HQSamModel) -> tuple[int, ...]:
    """Return the shape of `interm_embeddings`, [G, 1, 64, 64, width]."""
    encoder = model.architecture.encoder
    if isinstance(encoder, TinyViT):
        return (1, 1, GRID, GRID, encoder.interm_width)
    return (GLOBAL_BLOCKS, 1, GRID, GRID, max(MIN_VIT_WIDTH, encoder.width))


def encoder_graph(model: HQSamModel) -> nn.Module:
    """Return the graph of a model's encoder."""
    if isinstance(model.image_encoder, TinyViTEncoder):
        return TinyViTGraph(model.image_encoder)
    return ViTGraph(model.image_encoder, model.architecture.encoder.interm_width)


class ViTGraph(nn.Module):
    """`image` -> `image_embeddings`, `interm_embeddings`."""

    def __init__(self, encoder: ImageEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks = nn.ModuleList(_Block(cast(Block, block)) for block in encoder.blocks)
        missing = GLOBAL_BLOCKS - sum(cast(Block, block).window == 0 for block in encoder.blocks)
        self.padding = (0, max(0, MIN_VIT_WIDTH - width), *(0,) * 7, missing)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in the contract's `encoder`."""
        x = self.encoder.patch_embed(image) + self.encoder.pos_embed  # [1, 64, 64, C]
        interm = []
        for block in self.blocks:
            x = block(x)
            if block.window == 0:
                interm.append(x)
        stacked = torch.stack(interm)  # [G, 1, 64, 64, C]
        if any(self.padding):
            stacked = functional.pad(stacked, self.padding)  # [4, 1, 64, 64, 768]
        return self.encoder.neck(x.permute(0, 3, 1, 2)), stacked


class _Block(nn.Module):
    """A transformer block around the rewritten attention."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.window = block.window
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attention = _Attention(block.attn, block.window or GRID)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [1, 64, 64, C] to tokens [1, 64, 64, C]."""
        y = self.norm1(x)
        if self.window:
            y = merge_windows(self.attention(split_windows(y, self.window)), self.window, GRID)
        else:
            y = self.attention(y)
        x = x + y
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    """Attention as plain matrix products, softmax and one addition, for runtimes to fuse."""

    def __init__(self, attention: Attention, side: int) -> None:
        super().__init__()
        self.heads = attention.heads
        self.side = side
        self.proj = attention.proj
        weights = attention.qkv.weight.detach().chunk(3)  # each [C, C]
        biases = attention.qkv.bias.detach().chunk(3)
        scale = (len(biases[0]) // self.heads) ** -0.5
        # The query is scaled here; the position tables, which it is multiplied with, undo that.
        self.weights = [weights[0].T * scale, weights[1].T, weights[2].T]
        self.biases = [biases[0] * scale, biases[1], biases[2]]
        # [S, D, S]: for each query row or column, from head channels to key row or column.
        self.rows = relative_table(attention.rel_pos_h.detach(), side).transpose(1, 2) / scale
        self.columns = relative_table(attention.rel_pos_w.detach(), side).transpose(1, 2) / scale

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, S, S, C] to [B, S, S, C]."""
        side, tokens = self.side, self.side * self.side
        q, k, v = (
            (x @ weight + bias).reshape(-1, tokens, self.heads, x.shape[-1] // self.heads)
            for weight, bias in zip(self.weights, self.biases, strict=True)
        )
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, heads, S*S, D]
        square = q.unflatten(2, (side, side))  # [B, heads, S, S, D]
        by_row = square @ self.rows  # [B, heads, S, S, S]
        by_column = (square.transpose(2, 3) @ self.columns).transpose(2, 3)  # the same
        bias = (by_row[..., None] + by_column[..., None, :]).flatten(4, 5).flatten(2, 3)
        attended = (q @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v  # [B, heads, S*S, D]
        return self.proj(attended.transpose(1, 2).reshape(x.shape))
