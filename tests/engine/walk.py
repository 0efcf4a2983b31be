"""Random texts that a grammar allows: a model of random weights, whose logits are noise, under the masks.

Some tokens are likelier than the others, since texts of any length would hardly ever end by chance.
"""

from __future__ import annotations

import random

from wavefold.chat import Tokenizer
from wavefold.chat.special_tokens import DSML
from wavefold.engine.grammar import Grammar, GrammarState

ENDS = '"]}<\n'


def walk(
    grammar: Grammar, tokenizer: Tokenizer, drawn: random.Random, most: int = 1500, begin: str = ""
) -> tuple[list[int], str]:  # fmt: skip
    """Returns the tokens of a byte tokenizer, and "stop", "eos" or "length", or an error. `begin`: their first text."""
    less, slash = tokenizer.encode("<")[0], tokenizer.encode("/")[0]
    ends, marks = set(tokenizer.encode(ENDS)), {tokenizer.token_id(DSML), tokenizer.eos_id}
    state = grammar.start()
    tokens: list[int] = []
    for token in tokenizer.encode(begin):
        assert token in tokens_of(state)
        tokens.append(token)
        state.advance(token)
    while len(tokens) < most:
        if (token := state.only_token) is None:
            allowed = tokens_of(state)
            likely = [one for one in allowed if one in ends and (one != less or tokens[-1:] != [less])]
            if tokens[-1:] == [less] and slash in allowed and len(tokens) > len(begin) and drawn.random() < 0.75:
                likely = allowed = [slash]
            mark = [one for one in allowed if one in marks]
            chance = drawn.random()
            token = drawn.choice((chance < 0.9 and mark) or (chance < 0.3 and likely) or allowed)
        if state.error:
            return tokens, state.error
        if token == tokenizer.eos_id:
            return tokens, "eos"
        tokens.append(token)
        state.advance(token)
        if state.error or state.is_complete:
            return tokens, state.error or "stop"
    return tokens, "length"


def tokens_of(state: GrammarState) -> list[int]:
    """Returns the tokens that a mask allows."""
    return [32 * n + bit for n, word in enumerate(state.mask.tolist()) for bit in range(32) if word >> bit & 1]
