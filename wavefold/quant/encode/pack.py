"""The bytes of blocks from their parts. Source: the structs of ggml-common.h, field by field.

Numbers of fewer than eight bits come as uint8 tensors. "Halves" are the two 128 values of a super-block, in which
bytes of 2-bit numbers hold values 32 apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .half import half_bytes


def pairs_of_bits(q: Tensor) -> Tensor:
    """2-bit numbers [n, 256] -> [n, 64]: byte l of a half holds values l, l + 32, l + 64, l + 96."""
    parts = q.view(-1, 2, 4, 32)
    return (parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6).flatten(1)


def nibbles(q: Tensor, distance: int) -> Tensor:
    """4-bit numbers [n, m] -> [n, m / 2]: a byte holds a value low and the one `distance` places later high."""
    parts = q.view(len(q), -1, 2, distance)
    return (parts[:, :, 0] | parts[:, :, 1] << 4).flatten(1)


def single_bits(q: Tensor) -> Tensor:
    """Bits [n, 256] -> [n, 32]: bit i of byte l is value 32 i + l."""
    parts = q.view(-1, 8, 32)
    packed = parts[:, 0].clone()
    for i in range(1, 8):
        packed |= parts[:, i] << i
    return packed


def bytes_of_bits(q: Tensor) -> Tensor:
    """Bits [n, m, 8] -> [n, m], the first bit lowest."""
    powers = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=q.device)
    return (q * powers).sum(-1, dtype=torch.uint8)


def six_bit_pairs(k: Tensor, m: Tensor) -> Tensor:
    """Scales and offsets of Q4_K and Q5_K, 6 bits, [n, 8] each -> [n, 12]."""
    first = k[:, :4] | (k[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6
    return torch.cat((*first, (k[:, 4:] & 15) | (m[:, 4:] & 15) << 4), 1)


def six_bits(k: Tensor) -> Tensor:
    """Scales of Q3_K, 6 bits, [n, 16] -> [n, 12]."""
    low = (k[:, :8] & 15) | (k[:, 8:] & 15) << 4
    high = (k >> 4).view(-1, 4, 4)
    return torch.cat((low, high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6), 1)


def q2_k(d: Tensor, e: Tensor, k: Tensor, m: Tensor, q: Tensor) -> Tensor:
    return torch.cat((k | m << 4, pairs_of_bits(q), half_bytes(d), half_bytes(e)), 1)


def q3_k(d: Tensor, k: Tensor, q: Tensor) -> Tensor:
    """k from 0 to 63, q from 0 to 7."""
    return torch.cat((single_bits(q >> 2), pairs_of_bits(q & 3), six_bits(k), half_bytes(d)), 1)


def q4_k(d: Tensor, e: Tensor, k: Tensor, m: Tensor, q: Tensor) -> Tensor:
    return torch.cat((half_bytes(d), half_bytes(e), six_bit_pairs(k, m), nibbles(q, 32)), 1)


def q5_k(d: Tensor, e: Tensor, k: Tensor, m: Tensor, q: Tensor) -> Tensor:
    return torch.cat((half_bytes(d), half_bytes(e), six_bit_pairs(k, m), single_bits(q >> 4), nibbles(q & 15, 32)), 1)


def q6_k(d: Tensor, k: Tensor, q: Tensor) -> Tensor:
    """k as int8 bytes, q from 0 to 63."""
    return torch.cat((nibbles(q & 15, 64), pairs_of_bits(q >> 4), k, half_bytes(d)), 1)


def iq4_xs(d: Tensor, k: Tensor, q: Tensor) -> Tensor:
    """k from 0 to 63 [n, 8]."""
    high = (k >> 4).view(-1, 2, 4)
    high = high[..., 0] | high[..., 1] << 2 | high[..., 2] << 4 | high[..., 3] << 6
    return torch.cat((half_bytes(d), high, nibbles(k & 15, 1), nibbles(q, 16)), 1)


def signs_and_scale(signs: Tensor, k: Tensor) -> Tensor:
    """Seven bits of each of four sign bytes, and a scale of four bits: [n, 32], [n, 8] -> [n, 8, 4] bytes."""
    parts = (signs & 127).view(-1, 8, 4).int()
    word = parts[..., 0] | parts[..., 1] << 7 | parts[..., 2] << 14 | parts[..., 3] << 21
    return (word | k.int() << 28).view(torch.uint8).view(-1, 8, 4)


def iq2_xxs(d: Tensor, k: Tensor, codes: Tensor, signs: Tensor) -> Tensor:
    words = torch.cat((codes.to(torch.uint8).view(-1, 8, 4), signs_and_scale(signs, k)), 2)
    return torch.cat((half_bytes(d), words.flatten(1)), 1)


def iq2_xs(d: Tensor, k: Tensor, codes: Tensor, signs: Tensor) -> Tensor:
    """codes below 512 [n, 32], k [n, 16]."""
    low, high = (codes & 255).to(torch.uint8), (codes >> 8).to(torch.uint8) | (signs & 127) << 1
    return torch.cat((half_bytes(d), torch.stack((low, high), 2).flatten(1), nibbles(k, 1)), 1)


def iq3_xxs(d: Tensor, k: Tensor, codes: Tensor, signs: Tensor) -> Tensor:
    return torch.cat((half_bytes(d), codes.to(torch.uint8), signs_and_scale(signs, k).flatten(1)), 1)
