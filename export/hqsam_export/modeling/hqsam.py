"""The whole model, and what tells its variants apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hqsam_client import contract
from torch import Tensor, nn

from hqsam_export.modeling.image_encoder import ImageEncoder
from hqsam_export.modeling.mask_decoder import MaskDecoder
from hqsam_export.modeling.prompt_encoder import PromptEncoder


@dataclass(frozen=True)
class Architecture:
    """The dimensions in which HQ-SAM models differ.

    Attributes:
        vit_width: channels of a ViT token.
        vit_depth: ViT blocks.
        vit_heads: attention heads of a ViT block.
        global_blocks: indices of the blocks with global attention.
        width: channels of the image embeddings and of the decoder.
        mlp_width: hidden channels of the decoder's transformer.
    """

    vit_width: int
    vit_depth: int
    vit_heads: int
    global_blocks: tuple[int, ...]
    width: int = 256
    mlp_width: int = 2048


class HQSamModel(nn.Module):
    """HQ-SAM: image encoder, prompt encoder and mask decoder."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_encoder = ImageEncoder(
            architecture.vit_width,
            architecture.vit_depth,
            architecture.vit_heads,
            architecture.global_blocks,
            architecture.width,
        )
        self.prompt_encoder = PromptEncoder(architecture.width)
        self.mask_decoder = MaskDecoder(
            architecture.width, architecture.vit_width, architecture.mlp_width
        )

    def decode(
        self,
        image_embeddings: Tensor,
        hq_features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the masks of P prompts of N points each.

        Args:
            image_embeddings: [1, 256, 64, 64].
            hq_features: [1, 32, 256, 256].
            point_coords: [P, N, 2], (x, y) in the 1024 frame.
            point_labels: [P, N], label codes.
            mask_input: [P, 1, 256, 256], low-resolution logits.
            has_mask_input: [P].

        Returns:
            as `MaskDecoder.forward`.
        """
        return self.mask_decoder(
            image_embeddings,
            hq_features,
            self.prompt_encoder.grid_encoding(),
            self.prompt_encoder.embed_points(point_coords, point_labels),
            points_that_count(point_labels),
            self.prompt_encoder.embed_masks(mask_input, has_mask_input),
        )


def points_that_count(labels: Tensor) -> Tensor:
    """Tell points from padding, so that prompts of different lengths share a batch.

    In SAM a prompt without a box ends in one padding point, which is a token of its own,
    and a prompt with a box has none. Any padding beyond that only fills up a batch.

    Args:
        labels: [P, N], label codes.

    Returns:
        bool [P, N]: false for padding beyond the first point of it in a prompt, and for
        all padding in a prompt with a box corner.
    """
    padding = labels == contract.LABEL_PADDING  # [P, N]
    has_box = (labels >= contract.LABEL_BOX_TOP_LEFT).any(dim=1, keepdim=True)  # [P, 1]
    first = padding & (padding.to(torch.int32).cumsum(dim=1) == 1)  # [P, N]
    return ~padding | (first & ~has_box)
