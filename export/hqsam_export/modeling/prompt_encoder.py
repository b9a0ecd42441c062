"""The prompt encoder: points, boxes and earlier masks become embeddings."""

from __future__ import annotations

import math
from typing import cast

import torch
from hqsam_client import contract
from torch import Tensor, nn

from hqsam_export.modeling.layers import LayerNorm2d


class PromptEncoder(nn.Module):
    """Embeds P prompts of N points each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pe_layer = PositionEncoding(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, kernel_size=2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, width, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed points.

        Args:
            coords: [P, N, 2], (x, y) in the 1024 frame.
            labels: [P, N], the contract's label codes.

        Returns:
            [P, N, C]; padding points carry the not-a-point embedding alone.
        """
        labels = labels.unsqueeze(-1)  # [P, N, 1]
        # A pixel's centre lies half a pixel from its corner.
        x = self.pe_layer((coords + 0.5) / contract.INPUT_SIZE)  # [P, N, C]
        x = torch.where(labels == contract.LABEL_PADDING, self.not_a_point_embed.weight, x)
        for label, embedding in enumerate(self.point_embeddings):
            x = x + cast(nn.Embedding, embedding).weight * (labels == label)
        return x

    def embed_masks(self, masks: Tensor, has_mask: Tensor) -> Tensor:
        """Embed earlier masks.

        Args:
            masks: [P, 1, 256, 256], low-resolution logits.
            has_mask: [P], 1 where the mask counts and 0 where there is none.

        Returns:
            [P, C, 64, 64].
        """
        has_mask = has_mask.reshape(-1, 1, 1, 1)  # [P, 1, 1, 1]
        none = self.no_mask_embed.weight.reshape(1, -1, 1, 1)  # [1, C, 1, 1]
        return has_mask * self.mask_downscaling(masks) + (1 - has_mask) * none

    def grid_encoding(self) -> Tensor:
        """Return the position encoding of the embedding's tokens, [1, 64 * 64, C]."""
        side = contract.EMBEDDING_SIZE
        centres = (torch.arange(side, device=self.no_mask_embed.weight.device) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        encoding: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))  # [64, 64, C]
        return encoding.reshape(1, side * side, -1)


class PositionEncoding(nn.Module):
    """Random Fourier features of positions (arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, positions: Tensor) -> Tensor:
        """Map positions [..., 2], (x, y) from 0 to 1, to [..., C]."""
        angles = 2 * math.pi * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
