"""The models beside V4: DeepSeek-V3.2 (public configuration), and a bfloat16 GQA-8 model of V4's depth."""

from __future__ import annotations

from wavefold.config import ModelConfig
from wavefold.plan.flops import Flops, sum_visible

LAYERS, HIDDEN, HEADS, VOCAB = 61, 7168, 128, 129280
Q_LORA, KV_LORA, NOPE, ROPE, VALUE = 1536, 512, 128, 64, 128
DENSE_LAYERS, DENSE_INTER, EXPERTS, ACTIVE_EXPERTS, INTER = 3, 18432, 256, 9, 2048
INDEX_HEADS, INDEX_DIM, INDEX_TOPK = 64, 128, 2048
MLA_BYTES = KV_LORA + 4 * 4 + 2 * ROPE
INDEX_BYTES = INDEX_DIM + 4


def v32_decode_flops(context: int) -> Flops:
    """One token decoded by DeepSeek-V3.2, MLA absorbed, with its sparse attention's indexer.

    Its router weights (0.1 of 37.5 billion) are counted with the FP8 ones, which gives V4 no advantage.
    """
    return _v32_flops(context, min(INDEX_TOPK, context), 1)


def v32_prefill_flops(num_tokens: int) -> Flops:
    """A token of a prompt of `num_tokens`, on average, MLA absorbed here too. Only the last one meets the head."""
    indexed, attended = sum_visible(num_tokens, 1), sum_visible(num_tokens, 1, INDEX_TOPK)
    return _v32_flops(indexed / num_tokens, attended / num_tokens, 1 / num_tokens)


def _v32_flops(indexed: float, attended: float, head: float) -> Flops:
    attention = HIDDEN * (Q_LORA + KV_LORA + ROPE) + Q_LORA * HEADS * (NOPE + ROPE)
    attention += KV_LORA * HEADS * (NOPE + VALUE) + HEADS * VALUE * HIDDEN
    indexer = Q_LORA * INDEX_HEADS * INDEX_DIM + HIDDEN * (INDEX_DIM + INDEX_HEADS)
    moe_layers = LAYERS - DENSE_LAYERS
    fp8 = LAYERS * (attention + indexer) + DENSE_LAYERS * 3 * HIDDEN * DENSE_INTER
    fp8 += moe_layers * (ACTIVE_EXPERTS * 3 * HIDDEN * INTER + EXPERTS * HIDDEN)
    return Flops(
        linear={"fp8": 2 * fp8, "bf16": 2 * VOCAB * HIDDEN * head},
        index=LAYERS * 2 * INDEX_HEADS * INDEX_DIM * indexed,
        attention={"sparse": LAYERS * 2 * HEADS * attended * (KV_LORA + ROPE + KV_LORA)},
        index_is_fp4=False,
    )


def v32_kv_bytes(context: int) -> int:
    """MLA entries (FP8, bfloat16 rotary part, float32 scales) and FP8 index keys of all layers."""
    return LAYERS * (MLA_BYTES + INDEX_BYTES) * context


def gqa8_kv_bytes(config: ModelConfig, context: int) -> int:
    """Eight key-value heads of 128 in bfloat16 in as many layers as `config` has."""
    return config.num_hidden_layers * 2 * 8 * 128 * 2 * context
