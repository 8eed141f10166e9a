"""How much of a prompt counts as seen."""

from __future__ import annotations

from dynasor_serve.engines.replay.prefix_cache import PrefixCache, approximate_tokens

BLOCK = 16
PROMPT = "".join(f"word {number:04d} " for number in range(20))  # 200 characters, 50 tokens, 3 whole blocks


def cache(capacity_blocks: int = 1000) -> PrefixCache:
    return PrefixCache(block_size=BLOCK, capacity_blocks=capacity_blocks)


def look_up(seen: PrefixCache, prompt: str, salt: str = "") -> int:
    return seen.look_up_and_insert(prompt, prompt_tokens=approximate_tokens(prompt), salt=salt)


def test_the_second_call_with_a_prompt_finds_its_whole_blocks() -> None:
    seen = cache()

    assert [look_up(seen, PROMPT), look_up(seen, PROMPT)] == [0, 48]


def test_a_common_prefix_counts_and_what_follows_a_difference_does_not() -> None:
    seen = cache()
    look_up(seen, PROMPT)

    assert look_up(seen, PROMPT[:130] + "something else entirely, and long enough to fill blocks") == 32
    assert look_up(seen, "X" + PROMPT) == 0


def test_the_last_token_is_always_computed() -> None:
    seen = cache()
    whole_blocks = PROMPT[: BLOCK * 4 * 2]
    look_up(seen, whole_blocks)

    assert look_up(seen, whole_blocks) == BLOCK, "a hit of both blocks would leave nothing to compute"


def test_salts_keep_prompts_apart() -> None:
    seen = cache()
    look_up(seen, PROMPT, salt="tenant-a")

    assert look_up(seen, PROMPT, salt="tenant-b") == 0
    assert look_up(seen, PROMPT, salt="tenant-a") == 48


def test_the_blocks_used_longest_ago_go_first() -> None:
    seen = cache(capacity_blocks=6)
    old, kept = "a" * 200, "b" * 200
    look_up(seen, old)
    look_up(seen, kept)
    look_up(seen, kept)
    look_up(seen, "c" * 200)

    assert look_up(seen, kept) == 48
    assert look_up(seen, old) == 0


def test_without_capacity_nothing_is_cached() -> None:
    seen = cache(capacity_blocks=0)

    assert [look_up(seen, PROMPT), look_up(seen, PROMPT)] == [0, 0]
