"""The encoder of Light HQ-SAM, with norms and biases folded into its weights."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.modeling.tiny_vit import (
    INTERM_STAGE,
    AttentionBlock,
    ConvBlock,
    ConvNorm,
    Downsample,
    NormMLP,
    Stage,
    TinyViTEncoder,
    WindowAttention,
)
from hqsam_export.modeling.windows import merge_windows, split_windows


class TinyViTGraph(nn.Module):
    """`image` -> `image_embeddings`, `interm_embeddings`."""

    def __init__(self, encoder: TinyViTEncoder) -> None:
        super().__init__()
        first, _, second = encoder.patch_embed.seq
        self.patch_embed = nn.Sequential(
            folded(cast(ConvNorm, first)), nn.GELU(), folded(cast(ConvNorm, second))
        )
        self.stages = nn.ModuleList(_stage(cast(Stage, stage)) for stage in encoder.layers)
        self.neck = encoder.neck

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in the contract's `encoder`."""
        x = self.patch_embed(image)  # [1, 64, 256, 256]
        interm = x
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == INTERM_STAGE:
                interm = x  # [1, 160, 64, 64]
        return self.neck(x), interm.permute(0, 2, 3, 1)[None]


def folded(layer: ConvNorm) -> nn.Conv2d:
    """Return one convolution that computes what a convolution and its batch norm do."""
    conv, norm = layer.c, layer.bn
    scale = cast(Tensor, norm.weight) / (cast(Tensor, norm.running_var) + norm.eps).sqrt()
    result = nn.utils.skip_init(
        nn.Conv2d,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        groups=conv.groups,
    )
    with torch.no_grad():
        result.weight.copy_(conv.weight * scale[:, None, None, None])
        result.bias.copy_(norm.bias - cast(Tensor, norm.running_mean) * scale)
    return result


def _stage(stage: Stage) -> nn.Sequential:
    layers: list[nn.Module] = [
        _ConvBlock(block) if isinstance(block, ConvBlock) else _Block(cast(AttentionBlock, block))
        for block in stage.blocks
    ]
    if isinstance(stage.downsample, Downsample):
        step = stage.downsample
        layers += [
            nn.Sequential(folded(step.conv1), nn.GELU()),
            nn.Sequential(folded(step.conv2), nn.GELU()),
            folded(step.conv3),
        ]
    return nn.Sequential(*layers)


class _ConvBlock(nn.Module):
    """MBConv of three convolutions."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = folded(block.conv1), folded(block.conv2)
        self.conv3 = folded(block.conv3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [1, C, H, W] to [1, C, H, W]."""
        y = functional.gelu(self.conv1(x))
        y = functional.gelu(self.conv2(y))
        return functional.gelu(x + self.conv3(y))


class _Block(nn.Module):
    """An attention block around the rewritten attention."""

    def __init__(self, block: AttentionBlock) -> None:
        super().__init__()
        self.attention = _Attention(block.attn, block.window)
        self.local_conv = folded(block.local_conv)
        self.mlp: NormMLP = block.mlp

    def forward(self, x: Tensor) -> Tensor:
        """Map [1, C, S, S] to [1, C, S, S]."""
        tokens = _tokens(x)
        tokens = tokens + self.attention(tokens)
        tokens = _tokens(self.local_conv(_square(tokens)))
        return _square(tokens + self.mlp(tokens))


def _tokens(x: Tensor) -> Tensor:
    """Map [1, C, S, S] to [1, S * S, C].

    In two steps: runtimes whose convolutions have channels last drop the first one.
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _square(tokens: Tensor) -> Tensor:
    """Undo `_tokens`."""
    side = math.isqrt(tokens.shape[1])
    return tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2)


class _Attention(nn.Module):
    """Attention in windows, with the norm's scale and shift folded into the projections.

    A padded token is then zero up to the projections' biases, of which only the query's is left:
    what the key's adds to the scores is the same for all keys of a query, so the softmax drops
    it; and the value's moves into the output's bias, as the weights of a query sum up to one.
    The query's bias does not matter for padded tokens, whose outputs are cut off.
    """

    def __init__(self, attention: WindowAttention, window: int) -> None:
        super().__init__()
        self.heads, self.window = attention.heads, window
        self.width = attention.qkv.in_features
        self.eps = attention.norm.eps
        weight, bias = attention.qkv.weight.detach(), attention.qkv.bias.detach()
        bias = bias + weight @ attention.norm.bias.detach()
        # The rows are ordered by head first, and within a head by q, k and v.
        by_head = (weight * attention.norm.weight.detach()).unflatten(0, (self.heads, 3, -1))
        scale = by_head.shape[2] ** -0.5
        query, key, value = (by_head[:, part].flatten(0, 1).T for part in range(3))  # [C, C]
        query_bias, _, value_bias = (
            bias.unflatten(0, (self.heads, 3, -1))[:, part].flatten() for part in range(3)
        )
        self.query, self.key, self.value = query * scale, key, value
        self.query_bias = query_bias * scale
        self.out = attention.proj.weight.detach().T
        self.out_bias = attention.proj.bias.detach() + value_bias @ self.out
        # None where the loader left the biases at zero.
        added = attention.bias().detach()
        self.added = added[None] if added.any() else None  # [1, heads, N, N]

    def forward(self, x: Tensor) -> Tensor:
        """Map [1, S * S, C] to [1, S * S, C]."""
        side = math.isqrt(x.shape[1])
        y = functional.layer_norm(x, (self.width,), eps=self.eps)
        y = split_windows(y.unflatten(1, (side, side)), self.window).flatten(1, 2)  # [M, N, C]
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (y @ self.query + self.query_bias, y @ self.key, y @ self.value)
        )  # each [M, heads, N, D]
        scores = q @ k.transpose(-2, -1)  # [M, heads, N, N]
        if self.added is not None:
            scores = scores + self.added
        y = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # [M, N, C]
        y = y @ self.out + self.out_bias
        y = y.unflatten(1, (self.window, self.window))
        return merge_windows(y, self.window, side).flatten(1, 2)
