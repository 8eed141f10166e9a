"""How much of a prompt has the engine seen already?

A model of vLLM's automatic prefix caching: prompts are cut into blocks of tokens, a block counts as cached when
it and everything before it was seen, and the blocks used longest ago are dropped first. `engine` asks at
admission. Tokens are approximated as four characters each, so that equal prefixes make equal blocks without a
tokenizer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

CHARACTERS_PER_TOKEN: Final = 4


def approximate_tokens(text: str) -> int:
    """Return about how many tokens a text has; at least one."""
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


class PrefixCache:
    """Blocks of prompts seen, least recently used first.

    Args:
        block_size: Tokens per block.
        capacity_blocks: Blocks kept; 0 turns caching off.
    """

    def __init__(self, *, block_size: int, capacity_blocks: int) -> None:
        self._block_characters = block_size * CHARACTERS_PER_TOKEN
        self._block_size = block_size
        self._capacity_blocks = capacity_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()  # hash of a block and all before it, oldest first

    def look_up_and_insert(self, prompt: str, *, prompt_tokens: int, salt: str = "") -> int:
        """Return how many tokens of the prompt are cached, and cache all of it.

        As in vLLM a hit is whole blocks, and the last token is always computed.

        Args:
            prompt: Its text.
            prompt_tokens: Its token count as reported; hits never exceed it.
            salt: Prompts with different salts share nothing (vLLM's `cache_salt`).
        """
        if not self._capacity_blocks:
            return 0
        cached_blocks, unbroken, chain = 0, True, hash(salt)
        whole = len(prompt) - len(prompt) % self._block_characters
        for start in range(0, whole, self._block_characters):
            chain = hash((chain, prompt[start : start + self._block_characters]))
            unbroken = unbroken and chain in self._blocks
            cached_blocks += unbroken
            self._blocks[chain] = None
            self._blocks.move_to_end(chain)
        while len(self._blocks) > self._capacity_blocks:
            self._blocks.popitem(last=False)
        return min(cached_blocks, max(0, prompt_tokens - 1) // self._block_size) * self._block_size
