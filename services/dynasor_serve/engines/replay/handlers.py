"""The HTTP face: what each path answers. Built by `app`; generation is `generation`'s."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from dynasor_serve.engines.replay.engine import Engine
from dynasor_serve.engines.replay.errors import BadRequest, RequestRefused, UnexpectedFailure
from dynasor_serve.engines.replay.generation import REQUEST_ID_HEADER, Generation
from dynasor_serve.engines.replay.metrics import EngineMetrics, EngineState, MetricsCollector
from dynasor_serve.engines.replay.playback import Playback
from dynasor_serve.engines.replay.pooling import FACES, RewardFace
from dynasor_serve.engines.replay.requests import parse_chat, parse_completion, parse_detokenize, parse_tokenize
from dynasor_serve.engines.replay.responses import error_body, models_body
from dynasor_serve.engines.replay.rewarding import Rewarding
from dynasor_serve.engines.replay.tokenization import UnknownToken, decode, encode, pieces

_log = logging.getLogger(__name__)


class Handlers:
    """The paths of the server.

    Args:
        generation: Answers generation requests.
        rewarding: Answers requests for rewards.
        reward: The kind of reward model that is served instead of models that generate; None: none is.
        playback: Knows which models are served.
        engines: One per served model.
        max_model_len: As told in `/v1/models`.
        version: As told in `/version`.
    """

    def __init__(
        self,
        *,
        generation: Generation,
        rewarding: Rewarding,
        reward: RewardFace | None,
        playback: Playback,
        engines: Mapping[str, Engine],
        max_model_len: int,
        version: str,
    ) -> None:
        self._generation = generation
        self._rewarding = rewarding
        self._reward = reward
        self._playback = playback
        self._engines = engines
        self._max_model_len = max_model_len
        self._version = version
        self._started_at = int(time.time())
        self._registry = CollectorRegistry()
        self._registry.register(MetricsCollector(self._totals))

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the paths, those of vLLM."""
        return [
            *(self._generation_routes() if self._reward is None else self._reward_routes(self._reward)),
            web.post("/tokenize", self.tokenize),
            web.post("/detokenize", self.detokenize),
            web.get("/v1/models", self.models),
            web.get("/health", self.health),
            web.get("/ping", self.health),
            web.get("/version", self.version),
            web.get("/load", self.load),
            web.get("/metrics", self.metrics),
        ]

    def _generation_routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self.chat_completions),
            web.post("/v1/completions", self.completions),
        ]

    def _reward_routes(self, kind: RewardFace) -> Sequence[web.RouteDef]:
        handlers = {
            RewardFace.CLASSIFY: self.classify,
            RewardFace.SCORE: self.score,
            RewardFace.POOLING: self.pooling,
        }
        return [web.post(f"/{face}", handlers[face]) for face in FACES[kind]]

    async def chat_completions(self, http: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        return await self._generation.answer(http, parse_chat)

    async def completions(self, http: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        return await self._generation.answer(http, parse_completion)

    async def classify(self, http: web.Request) -> web.StreamResponse:
        """`POST /classify`."""
        return await self._rewarding.answer(http, RewardFace.CLASSIFY)

    async def score(self, http: web.Request) -> web.StreamResponse:
        """`POST /score`."""
        return await self._rewarding.answer(http, RewardFace.SCORE)

    async def pooling(self, http: web.Request) -> web.StreamResponse:
        """`POST /pooling`."""
        return await self._rewarding.answer(http, RewardFace.POOLING)

    async def tokenize(self, http: web.Request) -> web.StreamResponse:
        """`POST /tokenize`: by a stand-in for a tokenizer (`tokenization`)."""
        request = parse_tokenize(await http.read())
        self._playback.served(request.model)
        tokens = encode(request.text)
        answer = {
            "count": len(tokens),
            "max_model_len": self._max_model_len,
            "tokens": tokens,
            "token_strs": pieces(request.text) if request.return_token_strs else None,
        }
        return web.json_response(answer)

    async def detokenize(self, http: web.Request) -> web.StreamResponse:
        """`POST /detokenize`."""
        model, tokens = parse_detokenize(await http.read())
        self._playback.served(model)
        try:
            return web.json_response({"prompt": decode(tokens)})
        except UnknownToken as error:
            raise BadRequest(f"{error}; give ids that /tokenize returned", param="tokens") from error

    async def models(self, _: web.Request) -> web.StreamResponse:
        """`GET /v1/models`."""
        body = models_body(self._engines, created=self._started_at, max_model_len=self._max_model_len)
        return web.Response(body=body, content_type="application/json")

    async def health(self, _: web.Request) -> web.StreamResponse:
        """`GET /health` and `/ping`: 200 while the process lives, also while it drains, as vLLM."""
        return web.Response()

    async def version(self, _: web.Request) -> web.StreamResponse:
        """`GET /version`."""
        return web.json_response({"version": self._version})

    async def load(self, _: web.Request) -> web.StreamResponse:
        """`GET /load`: calls that run or wait."""
        return web.json_response({"server_load": sum(engine.load for engine in self._engines.values())})

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        """`GET /metrics`."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _totals(self) -> Iterator[tuple[str, EngineMetrics, EngineState]]:
        for model, engine in self._engines.items():
            yield model, engine.metrics, engine.state


@web.middleware
async def errors_as_vllm(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn refusals into vLLM's error bodies."""
    try:
        return await handler(request)
    except RequestRefused as refusal:
        return _error_response(refusal)
    except web.HTTPException as error:  # unknown path, wrong method, body too large
        return web.json_response({"detail": error.reason}, status=error.status)
    except Exception as error:  # noqa: BLE001 - the outermost frame of a request; it is logged and answered
        _log.exception("%s %s failed", request.method, request.path)
        return _error_response(UnexpectedFailure(f"{type(error).__name__}: {error}"))


async def echo_request_id(http: web.Request, response: web.StreamResponse) -> None:
    """Give every response its request's id, as vLLM does with `--enable-request-id-headers`."""
    response.headers[REQUEST_ID_HEADER] = http.headers.get(REQUEST_ID_HEADER) or uuid.uuid4().hex


def _error_response(refusal: RequestRefused) -> web.Response:
    return web.Response(body=error_body(refusal), status=refusal.status, content_type="application/json")
