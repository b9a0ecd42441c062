"""HQ-SAM in PyTorch, with the parameter names of the official checkpoint.

Every exported graph is compared with this model. It follows the papers
"Segment Anything" (arXiv 2304.02643), "Exploring Plain Vision Transformer Backbones
for Object Detection" (arXiv 2203.16527) for the image encoder, "TinyViT" (arXiv
2207.10666) for that of Light HQ-SAM, and "Segment Anything in High Quality" (arXiv
2306.01567) for the HQ token and features. It is written to be read;
`hqsam_export.graphs` computes the same faster.
"""

from hqsam_export.modeling.hqsam import Architecture, HQSamModel, TinyViT, ViT

__all__ = ["Architecture", "HQSamModel", "TinyViT", "ViT"]
