"""The weights that training starts from: layers that already do something useful.

A few thousand steps are too few for random weights to learn, from masks alone, that a click
means its own position and that neighbouring tokens belong together. Therefore:
- the patch embedding starts as a discrete cosine transform of each token's pixels;
- the heads of the image encoder start with neighbourhoods of several sizes;
- the decoder's tokens start by attending to the image at their own position, and copy what the
  image holds there; image tokens start by attending to prompt tokens that resemble them or lie
  close to them, so that the position of a click matters and not only its content.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from hqsam_export.modeling import Architecture, HQSamModel
from hqsam_export.modeling.image_encoder import Attention as SelfAttention
from hqsam_export.modeling.image_encoder import Block, ImageEncoder
from hqsam_export.modeling.layers import LayerNorm2d
from hqsam_export.modeling.transformer import HEADS, Attention, TwoWayBlock
from torch import Tensor, nn

from training.samples import PATCH

CONTENT = 0.25
"""Scale of image tokens in the decoder, where position encodings have scale 0.7."""

SCALES = 8
"""Wavelengths of the position encoding, from a third of an image to four tokens."""

NEIGHBOUR_BIAS = 4.0
"""Component of every query that is multiplied with the table of relative positions."""

PEAK = 12.0
"""Extra logit of a point's own position: among 4,096 tokens, about half of the attention."""

NEARBY = 5.0
"""Extra logit, in an image token, of the prompt token of a point that lies on it."""


@torch.no_grad()
def new_model(architecture: Architecture) -> HQSamModel:
    """Return a model to train."""
    model = HQSamModel(architecture)
    _start_encoder(model)
    _start_decoder(model)
    return model


def _start_encoder(model: HQSamModel) -> None:
    encoder = cast(ImageEncoder, model.image_encoder)
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    projection = encoder.patch_embed.proj
    projection.weight.copy_(cosine_filters(projection.out_channels))
    cast(Tensor, projection.bias).zero_()
    for block in encoder.blocks:
        _attend_to_neighbours(cast(Block, block).attn)
    cast(LayerNorm2d, encoder.neck[3]).weight.fill_(CONTENT)


def cosine_filters(count: int) -> Tensor:
    """Return filters [count, 3, 16, 16]: the lowest frequencies, half of them in brightness.

    The gain grows with the frequency, because the spectrum of images falls with it.
    """
    steps = torch.arange(PATCH)
    basis = torch.cos(math.pi * steps[:, None] * (steps[None, :] + 0.5) / PATCH)  # [16, 16]
    basis[0] /= math.sqrt(2)
    basis *= math.sqrt(2 / PATCH)
    frequencies = torch.hypot(steps[:, None].float(), steps[None, :].float()).flatten()
    order = frequencies.argsort(stable=True)
    # Brightness, red against blue, green against both.
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
    colours /= colours.norm(dim=1, keepdim=True)
    quarter = count // 4
    filters = []
    for colour, share in zip(colours, (count - 2 * quarter, quarter, quarter), strict=True):
        for index in order[:share]:
            row, column = divmod(int(index), PATCH)
            gain = (1 + 2 * frequencies[index]) / PATCH
            filters.append(colour[:, None, None] * gain * torch.outer(basis[row], basis[column]))
    return torch.stack(filters)


def _attend_to_neighbours(attention: SelfAttention) -> None:
    """Give each head a bell-shaped neighbourhood of its own width, and the last one all tokens.

    Heads share the table of relative positions, so each reads its own component.
    """
    side = (attention.rel_pos_h.shape[0] + 1) // 2
    width = attention.rel_pos_h.shape[1]
    weight = attention.qkv.weight.view(3, attention.heads, width, -1)
    bias = attention.qkv.bias.view(3, attention.heads, width)
    bias[1] = 0
    distance = torch.arange(1 - side, side).float()
    for head in range(attention.heads - 1):
        weight[:2, head, head] = 0
        bias[0, head, head] = NEIGHBOUR_BIAS
        spread = 1.8**head  # in tokens
        for table in (attention.rel_pos_h, attention.rel_pos_w):
            table[:, head] = -(distance**2) / (2 * spread**2) / NEIGHBOUR_BIAS


def _start_decoder(model: HQSamModel) -> None:
    prompts, decoder = model.prompt_encoder, model.mask_decoder
    # Small, so that the position encoding dominates at first.
    for table in (
        *prompts.point_embeddings,
        prompts.not_a_point_embed,
        *([] if prompts.box_centre is None else [prompts.box_centre]),
        prompts.no_mask_embed,
        decoder.iou_token,
        decoder.mask_tokens,
        decoder.hf_token,
    ):
        nn.init.normal_(cast(nn.Embedding, table).weight, std=0.1)
    matrix = prompts.pe_layer.positional_encoding_gaussian_matrix  # [2, C / 2]
    count = matrix.shape[1]
    angles = torch.arange(count) * math.pi * (3 - math.sqrt(5))
    radii = torch.logspace(math.log10(0.5), math.log10(8), SCALES)
    matrix.copy_(
        radii.repeat_interleave(count // SCALES) * torch.stack([angles.cos(), angles.sin()])
    )
    transformer = decoder.transformer
    for layer in transformer.layers:
        block = cast(TwoWayBlock, layer)
        for norm, scale in (
            (block.norm1, CONTENT),
            (block.norm2, 2 * CONTENT),
            (block.norm3, 2 * CONTENT),
            (block.norm4, CONTENT),
        ):
            norm.weight.fill_(scale)
        _point_at_itself(block.cross_attn_token_to_image)
        attention = block.cross_attn_image_to_token
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        _attend_by_place(attention, slice(HEADS // 2, HEADS), NEARBY)
    _point_at_itself(transformer.final_attn_token_to_image)


def _attend_by_place(attention: Attention, heads: slice, peak: float) -> None:
    """Make some heads attend more, the closer the positions of query and key are."""
    inner, width = attention.q_proj.weight.shape
    half, each = width // 2, inner // HEADS // 2
    # Each head gets frequencies of all scales. Sine i of the encoding is at i, its cosine at
    # half + i; the product of both with those of another position depends on the distance only.
    rows = torch.arange(inner)
    head, place = rows // (2 * each), rows % (2 * each)
    frequency = (place % each) * (half // each) + head * (half // each // HEADS)
    pick = torch.zeros(inner, width)
    pick[rows, frequency + half * (place // each)] = 1
    gain = math.sqrt(peak * math.sqrt(2 * each) / each)
    chosen = slice(2 * each * heads.start, 2 * each * heads.stop)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[chosen] = gain * pick[chosen]
        projection.bias[chosen] = 0


def _point_at_itself(attention: Attention) -> None:
    """Make queries attend to keys at their own position, and copy the values."""
    _attend_by_place(attention, slice(0, HEADS), PEAK)
    inner, width = attention.q_proj.weight.shape
    rows = torch.arange(inner)
    over = torch.zeros(inner, width)
    over[rows, rows * (width // inner)] = 1
    attention.v_proj.weight.copy_(over + 0.1 * attention.v_proj.weight)
    attention.out_proj.weight.copy_(2 * over.T + 0.1 * attention.out_proj.weight)
    attention.v_proj.bias.zero_()
    attention.out_proj.bias.zero_()
