"""The gateway's gRPC face: the wire on one side, `Queries` on the other."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable

import grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1 import reasoning_pb2_grpc
from dynasor_serve.gateway.batches import Batches, Entry
from dynasor_serve.gateway.conversion import (
    PHASE_MESSAGES,
    event_message,
    query_from,
    refuse_unknown_fields,
    state_message,
)
from dynasor_serve.gateway.live_text import TrackerChannels, with_live_text
from dynasor_serve.gateway.queries import Queries
from dynasor_serve.programs.query import InvalidQuery, Query, QueryId
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state.program_log import Snapshot

_DEFAULT_PAGE, _LARGEST_PAGE = 50, 200
_PAGE_TOKEN = re.compile("[0-9]{0,9}")  # where the page begins


class ReasoningServicer(reasoning_pb2_grpc.ReasoningServiceServicer):
    """ReasoningService."""

    def __init__(
        self,
        queries: Queries,
        batches: Batches,
        trackers: TrackerChannels,
        *,
        default_rule: str,
        default_deadline_seconds: float,
    ) -> None:
        self._queries = queries
        self._batches = batches
        self._trackers = trackers
        self._default_rule = default_rule
        self._default_deadline_seconds = default_deadline_seconds

    async def Run(
        self,
        request: pb.RunRequest,
        context: grpc.aio.ServicerContext[pb.RunRequest, AsyncIterator[pb.RunResponse]],
    ) -> AsyncIterator[pb.RunResponse]:
        query = self._query(request, request.query, context.time_remaining())
        if not request.include_text:
            async for query_id, sequence, record in self._queries.run(query):
                yield pb.RunResponse(event=event_message(query_id, sequence, record))
            return
        receipt = await self._queries.accept(query)
        async for event in self._with_text(receipt.query_id, 0):
            yield pb.RunResponse(event=event)

    async def Submit(
        self,
        request: pb.SubmitRequest,
        context: grpc.aio.ServicerContext[pb.SubmitRequest, Awaitable[pb.SubmitResponse]],
    ) -> pb.SubmitResponse:
        receipt = await self._queries.accept(self._query(request, request.query, None))
        return pb.SubmitResponse(query_id=receipt.query_id, already_accepted=receipt.already_accepted)

    async def Get(
        self, request: pb.GetRequest, context: grpc.aio.ServicerContext[pb.GetRequest, Awaitable[pb.GetResponse]]
    ) -> pb.GetResponse:
        snapshot = await self._queries.get(QueryId(request.query_id))
        return pb.GetResponse(state=state_message(snapshot))

    async def List(
        self, request: pb.ListRequest, context: grpc.aio.ServicerContext[pb.ListRequest, Awaitable[pb.ListResponse]]
    ) -> pb.ListResponse:
        size = request.page_size or _DEFAULT_PAGE
        if not 1 <= size <= _LARGEST_PAGE:
            message = f"page_size is {size}; give 1 to {_LARGEST_PAGE}, or 0 for {_DEFAULT_PAGE}"
            raise ServiceError(Reason.INVALID_QUERY, message, field="page_size")
        if not _PAGE_TOKEN.fullmatch(request.page_token):
            message = "page_token is none that this service gave out; leave it empty for the first page"
            raise ServiceError(Reason.INVALID_QUERY, message, field="page_token")
        offset = int(request.page_token or 0)
        snapshots, more = await self._queries.list(request.tenant or "default", offset, size)
        token = str(offset + size) if more else ""
        return pb.ListResponse(states=map(state_message, snapshots), next_page_token=token)

    async def Watch(
        self,
        request: pb.WatchRequest,
        context: grpc.aio.ServicerContext[pb.WatchRequest, AsyncIterator[pb.WatchResponse]],
    ) -> AsyncIterator[pb.WatchResponse]:
        query_id = QueryId(request.query_id)
        if request.include_text:
            async for event in self._with_text(query_id, request.from_sequence):
                yield pb.WatchResponse(event=event)
            return
        async for sequence, record in self._queries.watch(query_id, request.from_sequence):
            yield pb.WatchResponse(event=event_message(query_id, sequence, record))

    async def Cancel(
        self,
        request: pb.CancelRequest,
        context: grpc.aio.ServicerContext[pb.CancelRequest, Awaitable[pb.CancelResponse]],
    ) -> pb.CancelResponse:
        phase = await self._queries.cancel(QueryId(request.query_id), request.reason)
        return pb.CancelResponse(phase=PHASE_MESSAGES[phase])

    async def RunBatch(
        self,
        request_iterator: AsyncIterator[pb.RunBatchRequest],
        context: grpc.aio.ServicerContext[AsyncIterator[pb.RunBatchRequest], AsyncIterator[pb.RunBatchResponse]],
    ) -> AsyncIterator[pb.RunBatchResponse]:
        # The first answer may take minutes; until then this says that somebody is there.
        await context.send_initial_metadata(())
        entries = (self._entry(request) async for request in request_iterator)
        async with contextlib.aclosing(self._batches.run(entries)) as answers:  # type: ignore[type-var]
            async for ended in answers:
                response = pb.RunBatchResponse(key=ended.entry.key)
                if isinstance(ended.result, Snapshot):
                    response.state.CopyFrom(state_message(ended.result))
                else:
                    error = ended.result
                    response.refused.reason = error.reason.value
                    response.refused.message = str(error)
                    response.refused.retryable = error.is_retryable
                yield response

    def _entry(self, request: pb.RunBatchRequest) -> Entry:
        query: Query | ServiceError
        try:
            query = self._query(request, request.query, None)
        except ServiceError as error:
            query = error
        return Entry(request.key, query, request.ByteSize())

    def _query(
        self,
        request: pb.RunRequest | pb.SubmitRequest | pb.RunBatchRequest,
        query: pb.Query,
        seconds_remaining: float | None,
    ) -> Query:
        """The query of a request; a caller's own gRPC deadline bounds a query that sets none."""
        refuse_unknown_fields(request)
        deadline_seconds = self._default_deadline_seconds
        if seconds_remaining is not None:
            deadline_seconds = min(deadline_seconds, seconds_remaining)
        try:
            return query_from(query, model=query.model, rule=self._default_rule, deadline_seconds=deadline_seconds)
        except InvalidQuery as error:
            raise ServiceError(Reason.INVALID_QUERY, str(error), field=error.field) from error

    def _with_text(self, query_id: QueryId, from_sequence: int) -> AsyncIterator[pb.QueryEvent]:
        async def events() -> AsyncIterator[pb.QueryEvent]:
            async for sequence, record in self._queries.watch(query_id, from_sequence):
                yield event_message(query_id, sequence, record)

        return with_live_text(query_id, events(), self._queries.tracker_address, self._trackers)
