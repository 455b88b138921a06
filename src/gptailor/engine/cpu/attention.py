"""Attention on CPUs for rows of a few hundred tokens (docs/decisions/0015).

torch's fused attention is made for long rows: over short ones, two matrix products and a softmax
take half its time in 16 bits, except on processors with AMX. Query heads that share keys and values
are multiplied together, where transformers copies the keys and values for each.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gptailor.engine.cpu.processor import has_bfloat16_tiles

__all__ = ["speed_up_attention"]

_NAME = "gptailor"
_STOCK = "sdpa"
_CACHED_BYTES = 4 * 2**20  # of scores made at a time, so that they fit the CPU's cache
_MOST_BYTES = 64 * 2**20  # of one row's scores; fused attention keeps none
_PLAIN = frozenset(
    {"is_causal", "position_ids", "sliding_window", "use_cache"}
)  # expressed by the mask


def speed_up_attention(model: PreTrainedModel, device: torch.device) -> None:
    """Let a model use `_attend` where it would use torch's fused attention.

    `_attend` is registered with transformers under a name of its own, through the interface made
    for that: nothing registered there changes, and nothing happens at import. Without AMX, 16-bit
    scores are rounded before the softmax, as by transformers' eager attention.
    """
    if device.type == "cpu" and model.config._attn_implementation == _STOCK:
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def _attend(  # noqa: PLR0913, PLR0917  # transformers' interface
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention under an additive mask, of (B, N, T, D) over (B, K, T, D): (B, T, N, E).

    N is a multiple of K. Any other kind of mask or argument is passed to transformers.
    """
    plain = all(name in _PLAIN or asked is None or asked is False for name, asked in others.items())
    shape = (len(query), 1, query.shape[2], query.shape[2])
    mask = attention_mask
    if mask is None or mask.shape != shape or mask.dtype != query.dtype or dropout or not plain:
        answer: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, mask, dropout, scaling, **others
        )
        return answer
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    row_bytes = query.shape[1] * query.shape[2] * key.shape[2] * query.element_size()
    fast = query.dtype == torch.float32  # fused attention is faster over short rows too
    fast = fast or (query.dtype == torch.bfloat16 and has_bfloat16_tiles())
    fast = fast or torch.is_grad_enabled()  # what follows has no gradients
    if fast or row_bytes > _MOST_BYTES:
        fused = scaled_dot_product_attention(
            query, key, value, mask, scale=scaling, enable_gqa=True
        )
        return fused.transpose(1, 2).contiguous(), None
    n_rows = max(1, _CACHED_BYTES // row_bytes)
    attended = query.new_empty(len(query), query.shape[2], query.shape[1], value.shape[-1])
    for low in range(0, len(query), n_rows):
        rows = slice(low, low + n_rows)
        part = _product(query[rows], key[rows], value[rows], mask[rows], scaling)
        attended[rows] = part.transpose(1, 2)
    return attended, None


def _product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Attention by two matrix products, (B, N, T, E).

    The keys' mean is subtracted first: it adds the same number to all scores of a query, which a
    softmax ignores, and the rest loses less in rounding (SageAttention, arXiv 2410.02367).
    """
    n, n_heads, n_tokens, _ = query.shape
    n_keys = key.shape[1]
    key = (key - key.mean(dim=2, keepdim=True, dtype=torch.float32)).to(key.dtype)
    stacked = (n * n_keys, n_heads // n_keys * n_tokens, -1)  # heads that share keys: one matrix
    keys, values = key.flatten(0, 1), value.flatten(0, 1)  # (B * K, T, D), (B * K, T, E)
    scores = torch.bmm(query.reshape(stacked), keys.transpose(1, 2))  # (B * K, N / K * T, T)
    scores = scores.view(n, n_heads, n_tokens, n_tokens)
    weights = torch.add(mask, scores, alpha=scaling, out=scores).softmax(dim=-1)
    return torch.bmm(weights.view(stacked), values).view(n, n_heads, n_tokens, -1)
