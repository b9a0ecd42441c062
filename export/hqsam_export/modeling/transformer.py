"""The two-way transformer between prompt tokens and image tokens."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from hqsam_export.modeling.layers import MLPBlock

HEADS = 8
DEPTH = 2


class TwoWayTransformer(nn.Module):
    """Lets tokens and image attend to each other, twice, and tokens once more."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(width, mlp_width, first=i == 0) for i in range(DEPTH)
        )
        self.final_attn_token_to_image = Attention(width, width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(
        self, image: Tensor, image_pe: Tensor, tokens: Tensor, token_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the transformer.

        Args:
            image: image tokens [P, 4096, C].
            image_pe: their position encoding [1, 4096, C].
            tokens: output and prompt tokens [P, T, C], which are their own position encoding.
            token_bias: [P, 1, 1, T], added to the attention paid to a token: 0 for a valid
                token, a large negative number for another.

        Returns:
            tokens [P, T, C] and image tokens [P, 4096, C].
        """
        queries = tokens
        for layer in self.layers:
            queries, image = layer(queries, image, tokens, image_pe, token_bias)
        attended = self.final_attn_token_to_image(queries + tokens, image + image_pe, image)
        return self.norm_final_attn(queries + attended), image


class TwoWayBlock(nn.Module):
    """One layer: tokens to tokens, tokens to image, MLP on tokens, image to tokens."""

    def __init__(self, width: int, mlp_width: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLPBlock(width, mlp_width, functional.relu)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2)

    def forward(
        self, queries: Tensor, image: Tensor, query_pe: Tensor, image_pe: Tensor, token_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next `queries` [P, T, C] and `image` [P, 4096, C]."""
        if self.first:
            # The queries are their own position encoding here: nothing to add.
            queries = self.self_attn(queries, queries, queries, token_bias)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries, token_bias)
        queries = self.norm1(queries)
        attended = self.cross_attn_token_to_image(queries + query_pe, image + image_pe, image)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))
        attended = self.cross_attn_image_to_token(
            image + image_pe, queries + query_pe, queries, token_bias
        )
        image = self.norm4(image + attended)
        return queries, image


class Attention(nn.Module):
    """Multi-head attention whose heads together are `inner_width` wide."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, inner_width)
        self.k_proj = nn.Linear(width, inner_width)
        self.v_proj = nn.Linear(width, inner_width)
        self.out_proj = nn.Linear(inner_width, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend from q [P, Q, C] to k and v [P, K, C]; `bias` [P, 1, 1, K] is added."""
        q, k, v = (
            x.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # [P, heads, Q or K, D]
            for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # [P, heads, Q, D]
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        return y
