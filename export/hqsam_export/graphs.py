"""The four graphs that are exported, as modules with the contract's inputs and outputs."""

from __future__ import annotations

import torch
from hqsam_client import contract
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.modeling import HQSamModel

GLOBAL_BLOCKS = 4
"""Intermediate embeddings in the contract; a smaller model's are filled up with zeros."""

MIN_VIT_WIDTH = 768
"""Width of the contract's intermediate embeddings; a narrower model's are filled up."""


def interm_width(model: HQSamModel) -> int:
    """Return the last dimension of `interm_embeddings`."""
    return max(MIN_VIT_WIDTH, model.architecture.vit_width)


class EncoderGraph(nn.Module):
    """`image` -> `image_embeddings`, `interm_embeddings`."""

    def __init__(self, model: HQSamModel) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder
        blocks = len(model.architecture.global_blocks)
        width = model.architecture.vit_width
        self.padding = (0, interm_width(model) - width, *(0,) * 7, GLOBAL_BLOCKS - blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in the contract's `encoder`."""
        embeddings, interm = self.image_encoder(image)
        return embeddings, functional.pad(interm, self.padding) if any(self.padding) else interm


class FeaturesGraph(nn.Module):
    """`image_embeddings`, `interm_embeddings` -> `hq_features`."""

    def __init__(self, model: HQSamModel) -> None:
        super().__init__()
        self.mask_decoder = model.mask_decoder
        self.vit_width = model.architecture.vit_width

    def forward(self, image_embeddings: Tensor, interm_embeddings: Tensor) -> Tensor:
        """Shapes as in the contract's `features`."""
        interm = interm_embeddings[..., : self.vit_width]
        features: Tensor = self.mask_decoder.hq_features(image_embeddings, interm)
        return features


class PromptDecoderGraph(nn.Module):
    """Prompts on one picture -> the HQ mask, SAM's masks and their predicted IoU."""

    def __init__(self, model: HQSamModel) -> None:
        super().__init__()
        self.model = model

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
        hq, sam, iou = self.model.decode(
            image_embeddings, hq_features, point_coords, point_labels, mask_input, has_mask_input
        )
        # In HQ-token-only single-mask mode the score is that of SAM's single mask.
        return hq, iou[:, :1], sam, iou


class DecoderGraph(nn.Module):
    """One prompt on one picture -> the HQ mask in the 1024 frame, its score and logits."""

    def __init__(self, model: HQSamModel) -> None:
        super().__init__()
        self.features = FeaturesGraph(model)
        self.prompt_decoder = PromptDecoderGraph(model)

    def forward(
        self,
        image_embeddings: Tensor,
        interm_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes as in the contract's `decoder`."""
        hq_features = self.features(image_embeddings, interm_embeddings)
        logits, iou, _, _ = self.prompt_decoder(
            image_embeddings, hq_features, point_coords, point_labels, mask_input, has_mask_input
        )
        size = (contract.INPUT_SIZE, contract.INPUT_SIZE)
        masks = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        return masks, iou, logits


GRAPHS: dict[str, type[nn.Module]] = {
    contract.ENCODER.name: EncoderGraph,
    contract.DECODER.name: DecoderGraph,
    contract.FEATURES.name: FeaturesGraph,
    contract.PROMPT_DECODER.name: PromptDecoderGraph,
}
