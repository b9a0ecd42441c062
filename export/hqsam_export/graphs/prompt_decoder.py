"""The prompt decoder, with everything folded that no prompt changes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.graphs.upscaling import HQMask, Upscaling, channels_last, to_pixels
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
        self.first, self.second = (_Layer(cast(TwoWayBlock, b)) for b in transformer.layers)
        self.no_mask = model.prompt_encoder.no_mask_embed.weight.detach()[None]  # [1, 1, C]
        self.dense = _DenseEmbedding(model.prompt_encoder)
        self.first_dense_weight = self.dense.weight @ self.first.image.weight  # [17, 3 * C / 2]
        self.final_image = _ImageProjections(key=transformer.final_attn_token_to_image)
        self.final_attention = transformer.final_attn_token_to_image
        self.final_norm = transformer.norm_final_attn
        self.upscaling = Upscaling(decoder.output_upscaling)
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
        points, counts = self.prompt_encoder.embed_points(point_coords, point_labels)
        outputs = self.output_tokens.expand(points.shape[0], -1, -1)  # [P, 6, C]
        tokens = torch.cat([outputs, points], dim=1)  # [P, T, C]
        ignored = functional.pad(~counts, (outputs.shape[1], 0))
        bias = torch.where(ignored, IGNORED, 0.0)[:, None, None, :]  # [P, 1, 1, T]
        bare = self.no_mask + channels_last(image_embeddings).flatten(1, 2)  # [1, 4096, C]
        dense = self.dense(mask_input, has_mask_input)  # [P, 4096, 17]

        pe = self.prompt_encoder.grid_encoding()  # [1, 4096, C]
        queries, image = tokens, bare + dense @ self.dense.weight  # [P, 4096, C]
        # The first layer sees the image as it is but for the masks: its projections are
        # shared by all prompts, and those of the masks are 17 channels wide.
        projected = self.first.image(bare, pe) + dense @ self.first_dense_weight
        queries, image = self.first(queries, image, projected, tokens, bias)
        queries, image = self.second(queries, image, self.second.image(image, pe), tokens, bias)
        keys, values = map(_heads, self.final_image(image, pe).chunk(2, dim=-1))
        q = _heads(self.final_attention.q_proj(queries + tokens))
        attended = _attend(self.final_attention, q, keys, values)
        queries = self.final_norm(queries + attended)  # [P, T, C]

        pixels = to_pixels(functional.gelu(self.upscaling(image)))  # [P, 256, 256, 32]
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


class _ImageProjections(nn.Module):
    """Projections of image tokens in one matrix product.

    Keys and queries are projected with the position encoding added. Its own projection
    is the same for every image: a constant that runtimes compute when they load.
    """

    def __init__(self, key: Attention, query: Attention | None = None) -> None:
        super().__init__()
        # What is projected, and whether with its position encoding.
        self.projections = [(key.k_proj, True), (key.v_proj, False)]
        if query is not None:
            self.projections.append((query.q_proj, True))
        self.weight = torch.cat([p.weight.detach() for p, _ in self.projections]).T.contiguous()

    def forward(self, image: Tensor, pe: Tensor) -> Tensor:
        """Map [P, 4096, C] to keys, values and, if wanted, queries beside each other."""
        constants = [
            p(pe) if with_pe else p.bias.expand(*pe.shape[:2], -1)
            for p, with_pe in self.projections
        ]
        return image @ self.weight + torch.cat(constants, dim=-1)


class _DenseEmbedding(nn.Module):
    """What an earlier mask adds to the image tokens, before the last, linear step.

    That step's `weight`, [17, C], takes the mask's 16 channels and, for a prompt that has
    a mask, a one: the bias, less the embedding of having none.
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
        self.image = _ImageProjections(
            key=block.cross_attn_token_to_image, query=block.cross_attn_image_to_token
        )

    def forward(
        self, queries: Tensor, image: Tensor, projected: Tensor, query_pe: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next `queries` [P, T, C] and `image` [P, 4096, C].

        `projected` is what `self.image` makes of the image tokens.
        """
        block = self.block
        keys, values, image_queries = map(_heads, projected.chunk(3, dim=-1))

        attention = block.self_attn
        x = queries if block.first else queries + query_pe
        q, k = _heads(attention.q_proj(x)), _heads(attention.k_proj(x))
        attended = _attend(attention, q, k, _heads(attention.v_proj(queries)), bias)
        queries = block.norm1(attended if block.first else queries + attended)

        attention = block.cross_attn_token_to_image
        q = _heads(attention.q_proj(queries + query_pe))
        queries = block.norm2(queries + _attend(attention, q, keys, values))
        queries = block.norm3(queries + block.mlp(queries))

        attention = block.cross_attn_image_to_token
        k, v = _heads(attention.k_proj(queries + query_pe)), _heads(attention.v_proj(queries))
        image = block.norm4(image + _attend(attention, image_queries, k, v, bias))
        return queries, image


def _heads(x: Tensor) -> Tensor:
    """Split [P, L, heads * D] into [P, heads, L, D]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _attend(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Attend from [P, heads, Q, D] to [P, heads, K, D]; returns [P, Q, C]."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [P, heads, Q, K]
    if bias is not None:
        scores = scores + bias
    x = scores.softmax(dim=-1) @ v  # [P, heads, Q, D]
    return attention.out_proj(x.transpose(1, 2).flatten(2))
