"""The four graphs that are exported, as modules with the contract's inputs and outputs.

They compute what `hqsam_export.modeling` does, rearranged to run fast. The export compares the
two.
"""

from __future__ import annotations

from collections.abc import Callable

from hqsam_client import contract
from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.graphs.encoder import encoder_graph, interm_shape
from hqsam_export.graphs.prompt_decoder import PromptDecoderGraph
from hqsam_export.graphs.upscaling import Upscaling, channels_first, channels_last
from hqsam_export.modeling import HQSamModel


class FeaturesGraph(nn.Module):
    """`image_embeddings`, `interm_embeddings` -> `hq_features`."""

    def __init__(self, model: HQSamModel) -> None:
        super().__init__()
        self.interm_width = model.architecture.encoder.interm_width
        self.from_interm = Upscaling(model.mask_decoder.compress_vit_feat)
        self.from_image = Upscaling(model.mask_decoder.embedding_encoder)

    def forward(self, image_embeddings: Tensor, interm_embeddings: Tensor) -> Tensor:
        """Shapes as in the contract's `features`."""
        interm = interm_embeddings[0, ..., : self.interm_width].flatten(1, 2)  # [1, 4096, width]
        image = channels_last(image_embeddings).flatten(1, 2)  # [1, 4096, C]
        return channels_first(self.from_interm(interm) + self.from_image(image))


class DecoderGraph(nn.Module):
    """One prompt on one image -> the HQ mask in the input frame, its score and logits."""

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


__all__ = [
    "GRAPHS",
    "DecoderGraph",
    "FeaturesGraph",
    "PromptDecoderGraph",
    "encoder_graph",
    "interm_shape",
]

GRAPHS: dict[str, Callable[[HQSamModel], nn.Module]] = {
    contract.ENCODER.name: encoder_graph,
    contract.DECODER.name: DecoderGraph,
    contract.FEATURES.name: FeaturesGraph,
    contract.PROMPT_DECODER.name: PromptDecoderGraph,
}
