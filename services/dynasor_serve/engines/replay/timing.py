"""How long would an engine take? Pure arithmetic of the replay's clock.

A call's first token comes after a fixed time and its uncached prompt's prefill; each further token after the
time per output token, stretched by the calls that decode beside it. `engine` asks before every event.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """The speed of one engine.

    Attributes:
        first_token_seconds: Fixed part of the time to the first token (TTFT).
        seconds_per_output_token: Decode time of a token when a call runs alone.
        prefill_seconds_per_token: Prefill time of a prompt token that is not in the prefix cache.
        slowdown_per_running_call: Growth of the decode time with the batch: r calls running take
            1 + slowdown · (r − 1) times as long per token. 0: the batch costs nothing.
        speed: Everything goes this many times as fast.
    """

    first_token_seconds: float = 0.0
    seconds_per_output_token: float = 0.0
    prefill_seconds_per_token: float = 0.0
    slowdown_per_running_call: float = 0.0
    speed: float = 1.0

    def __post_init__(self) -> None:
        for name in ("first_token_seconds", "seconds_per_output_token", "prefill_seconds_per_token"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a time must be 0 or more")
        if self.slowdown_per_running_call < 0:
            raise ValueError(f"slowdown_per_running_call is {self.slowdown_per_running_call}; it must be 0 or more")
        if self.speed <= 0:
            raise ValueError(f"speed is {self.speed}; it must be above 0")

    def first_token_after(self, uncached_prompt_tokens: int) -> float:
        """Seconds from admission to the first token."""
        return (self.first_token_seconds + self.prefill_seconds_per_token * uncached_prompt_tokens) / self.speed

    def decode_after(self, tokens: int, running: int) -> float:
        """Seconds that `tokens` further tokens take while `running` calls (this one included) decode."""
        return tokens * self._seconds_per_token(running)

    def decoded_within(self, seconds: float, running: int) -> int:
        """Whole tokens that are decoded within `seconds`; 0 when decoding takes no time."""
        per_token = self._seconds_per_token(running)
        return int(seconds / per_token) if per_token > 0 and seconds > 0 else 0

    def _seconds_per_token(self, running: int) -> float:
        batch = 1.0 + self.slowdown_per_running_call * max(0, running - 1)
        return self.seconds_per_output_token * batch / self.speed
