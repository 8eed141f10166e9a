"""What an engine endpoint is and whether it is well: asked by the scheduler's health checks and by `dynasor up`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
import msgspec

from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.wire import Count


class EngineKind(StrEnum):
    """What a worker's endpoint is."""

    VLLM = "vllm"
    VLLM_CPU = "vllm-cpu"
    REPLAY = "replay"
    EXTERNAL = "external"  # any OpenAI-compatible server
    # A reward model in a vLLM, named for the endpoint that is asked; it generates nothing.
    VLLM_CLASSIFY = "vllm-classify"  # probabilities of one label, or of two: bad, good
    VLLM_SCORE = "vllm-score"  # one probability for a question and what answers it
    VLLM_POOLING = "vllm-pooling"  # raw values, of the whole or of each step

    @property
    def speaks_vllm(self) -> bool:
        """Whether it takes vLLM's own parameters: priority, running usage, top_k."""
        return self is not EngineKind.EXTERNAL

    @property
    def is_reward(self) -> bool:
        """Whether it is a reward model."""
        return self in (EngineKind.VLLM_CLASSIFY, EngineKind.VLLM_SCORE, EngineKind.VLLM_POOLING)

    @property
    def honours_seed(self) -> bool:
        """A CPU vLLM dies of a seed ("CPU Generator does not use offset"); of others nothing is known."""
        return self is EngineKind.VLLM


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """What one endpoint serves."""

    models: tuple[str, ...]
    is_vllm: bool
    max_model_len: int  # tokens; 0 where unknown


def authorization(api_key: str) -> dict[str, str]:
    """Headers for an endpoint that asks for a key; none where the key is empty."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


class _Model(msgspec.Struct):
    id: str
    owned_by: str = ""
    max_model_len: Count | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


async def probe(session: aiohttp.ClientSession, url: str, *, timeout_seconds: float) -> EngineProfile:
    """Asks the endpoint what it serves. Raises `EngineError` where it is down or is no such server."""
    try:
        async with asyncio.timeout(timeout_seconds):
            async with session.get(f"{url}/v1/models") as response:
                body = await response.read()
                if response.status != 200:
                    raise EngineError(
                        EngineReason.ENGINE_UNAVAILABLE, f"{url}/v1/models answers {response.status}: {body[:120]!r}"
                    )
            models = msgspec.json.decode(body, type=_Models).data
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EngineError(
            EngineReason.ENGINE_GARBAGE, f"{url}/v1/models is no OpenAI-compatible list: {error}"
        ) from error
    except TimeoutError as error:
        raise EngineError(
            EngineReason.ENGINE_UNAVAILABLE, f"{url} did not answer within {timeout_seconds:g} s"
        ) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise EngineError(EngineReason.ENGINE_UNAVAILABLE, f"{url} cannot be reached: {error}") from error
    return EngineProfile(
        models=tuple(model.id for model in models),
        is_vllm=any(model.owned_by == "vllm" for model in models),
        max_model_len=max((model.max_model_len or 0 for model in models), default=0),
    )
