"""The prompt decoder, with all products folded that no prompt changes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.graphs.upscaling import HQMask, Upscaling, channels_last
from hqsam_export.modeling import HQSamModel
from hqsam_export.modeling.mask_decoder import IGNORED, SAM_MASKS
from hqsam_export.modeling.prompt_encoder import PromptEncoder
from hqsam_export.modeling.transformer import HEADS, Attention, TwoWayBlock


class PromptDecoderGraph(nn.Module):
    """Prompts on one image -> the HQ mask, SAM's masks and their predicted IoU."""

    def __init__(self, model: HQSamModel) -> None:
        super().__init__()
        decoder = model.mask_decoder
        self.prompt_encoder = model.prompt_encoder
        outputs = (decoder.iou_token, decoder.mask_tokens, decoder.hf_token)
        self.output_tokens = torch.cat([e.weight.detach() for e in outputs])[None]  # [1, 6, C]
        transformer = decoder.transformer
        self.pe = model.prompt_encoder.grid_encoding().detach()  # [1, 4096, C]
        self.first, self.second = (_Layer(cast(TwoWayBlock, b)) for b in transformer.layers)
        self.no_mask = model.prompt_encoder.no_mask_embed.weight.detach()[None]  # [1, 1, C]
        self.dense = _DenseEmbedding(model.prompt_encoder)
        self.final_attention = _TokenToImage(transformer.final_attn_token_to_image)
        self.final_norm = transformer.norm_final_attn
        self.upscaling = Upscaling(decoder.output_upscaling, gelu=True)
        self.hq_mask = HQMask(decoder.embedding_maskfeature)
        self.hypernetworks = decoder.output_hypernetworks_mlps
        self.hq_hypernetwork = decoder.hf_mlp
        self.iou_head = decoder.iou_prediction_head

    def forward(
        self,
        image_embeddings: Tensor,
        hq_features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shapes as in the contract's `prompt_decoder`."""
        # [P, N, C] and [P, N]
        points, valid = self.prompt_encoder.embed_points(point_coords, point_labels)
        outputs = self.output_tokens.expand(points.shape[0], -1, -1)  # [P, 6, C]
        tokens = torch.cat([outputs, points], dim=1)  # [P, T, C]
        ignored = functional.pad(~valid, (outputs.shape[1], 0))
        bias = torch.where(ignored, IGNORED, 0.0)[:, None, None, :]  # [P, 1, 1, T]
        image = self.no_mask + channels_last(image_embeddings).flatten(1, 2)  # [1, 4096, C]
        image = image + self.dense(mask_input, has_mask_input) @ self.dense.weight  # [P, 4096, C]

        queries, image = self.first(tokens, image, self.pe, tokens, bias)
        queries, image = self.second(queries, image, self.pe, tokens, bias)
        attended = self.final_attention(queries + tokens, image, image + self.pe)
        queries = self.final_norm(queries + attended)  # [P, T, C]

        pixels = self.upscaling(image)  # [P, 256, 256, 32]
        sam_kernels = torch.stack(
            [mlp(queries[:, 1 + i]) for i, mlp in enumerate(self.hypernetworks)], dim=1
        )  # [P, 4, 32]
        sam_masks = sam_kernels @ pixels.flatten(1, 2).transpose(1, 2)  # [P, 4, 65536]
        sam_masks = sam_masks.unflatten(-1, (256, 256))
        hq_kernel = self.hq_hypernetwork(queries[:, 1 + SAM_MASKS, None])  # [P, 1, 32]
        hq_masks = self.hq_mask(hq_kernel, pixels, hq_features)  # [P, 1, 256, 256]
        iou = self.iou_head(queries[:, 0])  # [P, 4]
        # In HQ-token-only single-mask mode the score is that of SAM's single mask.
        return hq_masks, iou[:, :1], sam_masks, iou


class _TokenToImage(nn.Module):
    """Attention of tokens to the image, with the image's projections folded into the tokens.

    The score of head h, token t and image token j is `q_ht . (Wk_h (x_j + p_j) + bk_h)`. The
    bias is the same for all j, so the softmax drops it, and `q_ht Wk_h` is one row for each
    head and token: fewer rows than the projection of every image token is wide. The values
    follow the same way: `sum_j s_j (Wv_h x_j + bv_h) = Wv_h (sum_j s_j x_j) + bv_h`.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.q_proj, self.out_proj = attention.q_proj, attention.out_proj
        self.key_weight = _by_head(attention.k_proj) * _scale(attention)  # [heads, D, C]
        self.value_weight = _by_head(attention.v_proj).transpose(1, 2)  # [heads, C, D]
        self.value_bias = attention.v_proj.bias.detach().reshape(HEADS, 1, -1)  # [heads, 1, D]

    def forward(self, tokens: Tensor, image: Tensor, placed: Tensor) -> Tensor:
        """Attend to the image.

        Args:
            tokens: [P, T, C], with their position encoding.
            image: image tokens [P, 4096, C].
            placed: `image` with its position encoding.

        Returns:
            [P, T, C].
        """
        rows = (_heads(self.q_proj(tokens)) @ self.key_weight).flatten(1, 2)  # [P, heads * T, C]
        scores = rows @ placed.transpose(1, 2)  # [P, heads * T, 4096]
        seen = _heads_apart(scores.softmax(dim=-1) @ image)  # [P, heads, T, C]
        values = seen @ self.value_weight + self.value_bias  # [P, heads, T, D]
        attended: Tensor = self.out_proj(values.transpose(1, 2).flatten(2))
        return attended


class _ImageToToken(nn.Module):
    """Attention of the image to tokens, with the image's projections folded as well.

    The output projection goes into the values of the tokens, and its bias is divided between
    the heads, whose weights each add up to one.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj
        scale = _scale(attention)
        self.query_weight = _by_head(attention.q_proj) * scale  # [heads, D, C]
        self.query_bias = attention.q_proj.bias.detach().reshape(HEADS, -1, 1) * scale
        out = attention.out_proj
        self.out_weight = out.weight.detach().T.unflatten(0, (HEADS, -1))  # [heads, D, C]
        self.out_bias = out.bias.detach() / HEADS

    def forward(self, tokens: Tensor, token_pe: Tensor, placed: Tensor, bias: Tensor) -> Tensor:
        """Attend to the tokens.

        Args:
            tokens: [P, T, C].
            token_pe: their position encoding, [P, T, C].
            placed: image tokens with their position encoding, [P, 4096, C].
            bias: added to the attention that is paid to a token, [P, 1, T, 1].

        Returns:
            [P, 4096, C].
        """
        k, v = _heads(self.k_proj(tokens + token_pe)), _heads(self.v_proj(tokens))
        rows = (k @ self.query_weight).flatten(1, 2)  # [P, heads * T, C]
        scores = _heads_apart(rows @ placed.transpose(1, 2))  # [P, heads, T, 4096]
        scores = scores + (k @ self.query_bias + bias)
        weights = scores.softmax(dim=2).flatten(1, 2)  # [P, heads * T, 4096]
        outputs = (v @ self.out_weight + self.out_bias).flatten(1, 2)  # [P, heads * T, C]
        return weights.transpose(1, 2) @ outputs


def _scale(attention: Attention) -> float:
    return float((attention.q_proj.out_features // HEADS) ** -0.5)


def _by_head(projection: nn.Linear) -> Tensor:
    """Split a projection's weight [heads * D, C] into [heads, D, C]."""
    return projection.weight.detach().unflatten(0, (HEADS, -1))


def _heads_apart(x: Tensor) -> Tensor:
    """Map [P, heads * T, L] to [P, heads, T, L]."""
    return x.unflatten(1, (HEADS, -1))


class _DenseEmbedding(nn.Module):
    """Maps an earlier mask to what it adds to the image tokens, but for the last, linear step.

    That step is a product with `weight`, [17, C]. Its first 16 rows are for the channels of the
    mask. The last row is for a 1 in prompts with a mask: the step's bias, less the embedding of
    "no mask".
    """

    def __init__(self, encoder: PromptEncoder) -> None:
        super().__init__()
        self.layers = encoder.mask_downscaling[:-1]
        last = cast(nn.Conv2d, encoder.mask_downscaling[-1])
        assert last.bias is not None  # noqa: S101 - narrows the type
        bias = last.bias.detach() - encoder.no_mask_embed.weight.detach()  # [1, C]
        self.weight = torch.cat([last.weight.detach().flatten(1).T, bias])  # [17, C]

    def forward(self, masks: Tensor, has_mask: Tensor) -> Tensor:
        """Map masks [P, 1, 256, 256] and has_mask [P] to [P, 4096, 17]."""
        x = channels_last(self.layers(masks)).flatten(1, 2)  # [P, 4096, 16]
        return functional.pad(x, (0, 1), value=1.0) * has_mask.reshape(-1, 1, 1)


class _Layer(nn.Module):
    """A layer of the two-way transformer."""

    def __init__(self, block: TwoWayBlock) -> None:
        super().__init__()
        self.block = block
        self.token_to_image = _TokenToImage(block.cross_attn_token_to_image)
        self.image_to_token = _ImageToToken(block.cross_attn_image_to_token)

    def forward(
        self, queries: Tensor, image: Tensor, image_pe: Tensor, query_pe: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next `queries` [P, T, C] and `image` [P, 4096, C]."""
        block = self.block
        attention = block.self_attn
        x = queries if block.first else queries + query_pe
        q, k = _heads(attention.q_proj(x)), _heads(attention.k_proj(x))
        attended = _attend(attention, q, k, _heads(attention.v_proj(queries)), bias)
        queries = block.norm1(attended if block.first else queries + attended)

        placed = image + image_pe
        queries = block.norm2(queries + self.token_to_image(queries + query_pe, image, placed))
        queries = block.norm3(queries + block.mlp(queries))
        attended = self.image_to_token(queries, query_pe, placed, bias.transpose(2, 3))
        image = block.norm4(image + attended)
        return queries, image


def _heads(x: Tensor) -> Tensor:
    """Split [P, L, heads * D] into [P, heads, L, D]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attend from [P, heads, Q, D] to [P, heads, K, D]; returns [P, Q, C]."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias  # [P, heads, Q, K]
    x = scores.softmax(dim=-1) @ v  # [P, heads, Q, D]
    return attention.out_proj(x.transpose(1, 2).flatten(2))
