"""HQ-SAM in PyTorch, under the parameter names of the official checkpoint.

The reference that every exported graph is compared with. It follows the papers
"Segment Anything" (arXiv 2304.02643), "Exploring Plain Vision Transformer Backbones
for Object Detection" (arXiv 2203.16527) for the image encoder, and "Segment Anything
in High Quality" (arXiv 2306.01567) for the HQ token and features. What makes a graph
fast is kept out of here: see `hqsam_export.graphs`.
"""

from hqsam_export.modeling.hqsam import Architecture, HQSamModel

__all__ = ["Architecture", "HQSamModel"]
