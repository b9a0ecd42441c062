"""The whole model, and the dimensions of its variants."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hqsam_export.modeling.image_encoder import ImageEncoder
from hqsam_export.modeling.mask_decoder import MaskDecoder
from hqsam_export.modeling.prompt_encoder import PromptEncoder
from hqsam_export.modeling.tiny_vit import INTERM_WIDTH, TinyViTEncoder


@dataclass(frozen=True)
class ViT:
    """The dimensions of a plain ViT encoder: HQ-SAM B, L and H.

    Attributes:
        width: channels of a token.
        depth: blocks.
        heads: attention heads of a block.
        global_blocks: indices of the blocks with global attention, whose outputs are the
            intermediate embeddings.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]

    @property
    def interm_width(self) -> int:
        """Channels of the intermediate embeddings."""
        return self.width

    def build(self, out_channels: int) -> ImageEncoder:
        """Return the encoder, without weights."""
        return ImageEncoder(self.width, self.depth, self.heads, self.global_blocks, out_channels)


@dataclass(frozen=True)
class TinyViT:
    """The encoder of Light HQ-SAM, TinyViT-5M, which comes in one size."""

    @property
    def interm_width(self) -> int:
        """Channels of the intermediate embedding."""
        return INTERM_WIDTH

    def build(self, out_channels: int) -> TinyViTEncoder:
        """Return the encoder, without weights."""
        return TinyViTEncoder(out_channels)


@dataclass(frozen=True)
class Architecture:
    """The dimensions in which HQ-SAM models differ.

    Attributes:
        encoder: which image encoder, and its dimensions.
        width: channels of the image embeddings and of the decoder.
        mlp_width: hidden channels of the decoder's transformer.
        box_centre: whether a box's centre is a point, too. It is not in the published models;
            a small model needs much more training to learn the inside of a box without it.
    """

    encoder: ViT | TinyViT
    width: int = 256
    mlp_width: int = 2048
    box_centre: bool = False


class HQSamModel(nn.Module):
    """HQ-SAM: image encoder, prompt encoder and mask decoder."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_encoder = architecture.encoder.build(architecture.width)
        self.prompt_encoder = PromptEncoder(architecture.width, architecture.box_centre)
        self.mask_decoder = MaskDecoder(
            architecture.width, architecture.encoder.interm_width, architecture.mlp_width
        )

    @property
    def has_attention_biases(self) -> bool:
        """Whether it can have biases in attention, as only Light can; see `load_model`."""
        return isinstance(self.architecture.encoder, TinyViT)

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
            point_coords: [P, N, 2], (x, y) in the input frame.
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
            *self.prompt_encoder.embed_points(point_coords, point_labels),
            self.prompt_encoder.embed_masks(mask_input, has_mask_input),
        )
