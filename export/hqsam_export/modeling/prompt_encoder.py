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

    def __init__(self, width: int, box_centre: bool = False) -> None:
        super().__init__()
        self.pe_layer = PositionEncoding(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.box_centre = nn.Embedding(1, width) if box_centre else None
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

    def embed_points(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed points.

        Args:
            coords: [P, N, 2], (x, y) in the input frame.
            labels: [P, N], the contract's label codes.

        Returns:
            embeddings [P, N, C], of padding the not-a-point embedding alone; and which points
            are valid, bool [P, N]. With box centres, N is one more.
        """
        valid = valid_points(labels)
        labels = labels.unsqueeze(-1)  # [P, N, 1]
        x = self._encoding(coords)  # [P, N, C]
        x = torch.where(labels == contract.LABEL_PADDING, self.not_a_point_embed.weight, x)
        for label, embedding in enumerate(self.point_embeddings):
            x = x + cast(nn.Embedding, embedding).weight * (labels == label)
        if self.box_centre is not None:
            corners = labels >= contract.LABEL_BOX_TOP_LEFT  # [P, N, 1]
            centre = (coords * corners).sum(dim=1, keepdim=True) / 2  # [P, 1, 2]
            x = torch.cat([x, self._encoding(centre) + self.box_centre.weight], dim=1)
            valid = torch.cat([valid, corners.any(dim=1)], dim=1)
        return x, valid

    def _encoding(self, coords: Tensor) -> Tensor:
        # Coordinates count pixels: the centre of the first one is 0, and 0.5 from its edge.
        encoding: Tensor = self.pe_layer((coords + 0.5) / contract.INPUT_SIZE)
        return encoding

    def embed_masks(self, masks: Tensor, has_mask: Tensor) -> Tensor:
        """Embed earlier masks.

        Args:
            masks: [P, 1, 256, 256], low-resolution logits.
            has_mask: [P], 1 for a prompt with a mask and 0 for one without.

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


def valid_points(labels: Tensor) -> Tensor:
    """Tell valid points from padding that only brings a batch's prompts to one length.

    In SAM a prompt without a box ends with one padding point, which is a token like any other,
    and a prompt with a box has none. So the first padding point of a prompt without a box is
    valid; all other padding is not.

    Args:
        labels: [P, N], label codes.

    Returns:
        bool [P, N].
    """
    padding = labels == contract.LABEL_PADDING  # [P, N]
    has_box = (labels >= contract.LABEL_BOX_TOP_LEFT).any(dim=1, keepdim=True)  # [P, 1]
    first = padding & (padding.to(torch.int32).cumsum(dim=1) == 1)  # [P, N]
    return ~padding | (first & ~has_box)
