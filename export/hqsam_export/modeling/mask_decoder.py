"""The mask decoder of HQ-SAM: SAM's four masks and the HQ token's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hqsam_export.modeling.layers import MLP, LayerNorm2d
from hqsam_export.modeling.transformer import TwoWayTransformer

SAM_MASKS = 4
"""SAM's own masks: the single one, then the three of its multi-mask mode."""

IGNORED = -1e9
"""Added to the attention paid to a token that is not valid."""


class MaskDecoder(nn.Module):
    """Predicts masks from image embeddings and prompt embeddings."""

    def __init__(self, width: int, vit_width: int, mlp_width: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width, mlp_width)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(SAM_MASKS, width)
        self.hf_token = nn.Embedding(1, width)
        self.output_upscaling = nn.Sequential(*_upscaling(width, width // 4), nn.GELU())
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(width, width // 8) for _ in range(SAM_MASKS)
        )
        self.hf_mlp = MLP(width, width // 8)
        self.iou_prediction_head = MLP(width, SAM_MASKS)
        self.compress_vit_feat = nn.Sequential(*_upscaling(vit_width, width, width // 8))
        self.embedding_encoder = nn.Sequential(*_upscaling(width, width // 4))
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(width // 8, width // 4, kernel_size=3, padding=1),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 8, kernel_size=3, padding=1),
        )

    def hq_features(self, image_embeddings: Tensor, interm_embeddings: Tensor) -> Tensor:
        """Compute the part of the decoder that depends on the image alone.

        Args:
            image_embeddings: [1, 256, 64, 64].
            interm_embeddings: [G, 1, 64, 64, vit_width]; only the first of G is read.

        Returns:
            [1, 32, 256, 256].
        """
        vit_features = interm_embeddings[0].permute(0, 3, 1, 2)  # [1, vit_width, 64, 64]
        features: Tensor = self.embedding_encoder(image_embeddings)
        return features + self.compress_vit_feat(vit_features)

    def forward(
        self,
        image_embeddings: Tensor,
        hq_features: Tensor,
        image_pe: Tensor,
        point_embeddings: Tensor,
        valid_points: Tensor,
        mask_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the masks of P prompts on one image.

        Args:
            image_embeddings: [1, C, 64, 64].
            hq_features: [1, 32, 256, 256], see `hq_features`.
            image_pe: [1, 4096, C].
            point_embeddings: [P, N, C].
            valid_points: bool [P, N], false for a point that is ignored.
            mask_embeddings: [P, C, 64, 64].

        Returns:
            the HQ token's mask [P, 1, 256, 256], SAM's masks [P, 4, 256, 256], and the
            predicted IoU of SAM's masks [P, 4].
        """
        tokens, image = self.attend(
            image_embeddings, image_pe, point_embeddings, valid_points, mask_embeddings
        )
        return self.masks(tokens, image, hq_features)

    def attend(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        point_embeddings: Tensor,
        valid_points: Tensor,
        mask_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Let output tokens, prompts and image attend to each other.

        Args:
            see `forward`.

        Returns:
            output and prompt tokens [P, 6 + N, C] and image tokens [P, C, 64, 64].
        """
        prompts = point_embeddings.shape[0]
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hf_token.weight])
        outputs = outputs.expand(prompts, -1, -1)  # [P, 6, C]
        tokens = torch.cat([outputs, point_embeddings], dim=1)  # [P, 6 + N, C]
        valid = torch.cat([torch.ones_like(outputs[..., 0], dtype=torch.bool), valid_points], 1)
        bias = torch.where(valid, 0.0, IGNORED)[:, None, None, :]  # [P, 1, 1, 6 + N]
        image = (image_embeddings + mask_embeddings).flatten(2).transpose(1, 2)  # [P, 4096, C]
        tokens, image = self.transformer(image, image_pe, tokens, bias)
        return tokens, image.transpose(1, 2).reshape_as(mask_embeddings)

    def masks(
        self, tokens: Tensor, image: Tensor, hq_features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make masks of what `attend` returns; see `forward`."""
        sam_features = self.output_upscaling(image)  # [P, 32, 256, 256]
        features = self.embedding_maskfeature(sam_features) + hq_features  # [P, 32, 256, 256]
        sam_kernels = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # [P, 4, 32]
        hq_kernel = self.hf_mlp(tokens[:, 1 + SAM_MASKS, None])  # [P, 1, 32]
        sam_masks = torch.einsum("pkc,pchw->pkhw", sam_kernels, sam_features)
        hq_masks = torch.einsum("pkc,pchw->pkhw", hq_kernel, features)
        return hq_masks, sam_masks, self.iou_prediction_head(tokens[:, 0])


def _upscaling(width: int, inner: int, outer: int | None = None) -> list[nn.Module]:
    """Return the layers from [B, width, 64, 64] to [B, outer, 256, 256]."""
    return [
        nn.ConvTranspose2d(width, inner, kernel_size=2, stride=2),
        LayerNorm2d(inner),
        nn.GELU(),
        nn.ConvTranspose2d(inner, outer or inner // 2, kernel_size=2, stride=2),
    ]
