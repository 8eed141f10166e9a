"""Between the public protobuf messages and the domain's values. The only module of the gateway that knows both."""

from __future__ import annotations

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.programs import events
from dynasor_serve.programs.algorithm import AlgorithmParameters
from dynasor_serve.programs.events import Outcome, Phase, ProgramError
from dynasor_serve.programs.query import (
    TOKENS_OF_THE_POOL,
    InvalidQuery,
    Message,
    ProbeParameters,
    Query,
    QueryClass,
    QueryId,
    RewardParameters,
    RewardSource,
    SamplingParameters,
)
from dynasor_serve.programs.registry import parse_algorithm
from dynasor_serve.programs.self_consistency import SelfConsistencyParameters
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state.program_log import Snapshot
from dynasor_serve.state.records import Record

_CLASSES = {
    pb.QUERY_CLASS_UNSPECIFIED: QueryClass.STANDARD,
    pb.QUERY_CLASS_INTERACTIVE: QueryClass.INTERACTIVE,
    pb.QUERY_CLASS_STANDARD: QueryClass.STANDARD,
    pb.QUERY_CLASS_BATCH: QueryClass.BATCH,
}
_CLASS_MESSAGES = {
    QueryClass.INTERACTIVE: pb.QUERY_CLASS_INTERACTIVE,
    QueryClass.STANDARD: pb.QUERY_CLASS_STANDARD,
    QueryClass.BATCH: pb.QUERY_CLASS_BATCH,
}
PHASE_MESSAGES = {
    Phase.QUEUED: pb.QUERY_PHASE_QUEUED,
    Phase.RUNNING: pb.QUERY_PHASE_RUNNING,
    Phase.SUCCEEDED: pb.QUERY_PHASE_SUCCEEDED,
    Phase.FAILED: pb.QUERY_PHASE_FAILED,
    Phase.CANCELLED: pb.QUERY_PHASE_CANCELLED,
}


# --- from the wire ---


def refuse_unknown_fields(message: ProtoMessage) -> None:
    """Raises `ServiceError` where the message, at any depth, has fields that this release does not know.

    A newer client's algorithm or bound, silently dropped, would run another query than the one asked.
    """
    size = message.ByteSize()
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() == size:
        return
    path, number = _first_unknown(message, "") or ("the request", 0)
    text = (
        f"{path} has an unknown field (number {number}); this server is older than the client, or the request is wrong"
    )
    raise ServiceError(Reason.UNKNOWN_FIELD, text, field=path)


def query_from(message: pb.Query, *, model: str, rule: str, deadline_seconds: float) -> Query:
    """The query with defaults filled in, not yet validated. Raises `InvalidQuery` on words that are unknown.

    Args:
        model, rule, deadline_seconds: used where the message sets none.
    """
    chat = message.WhichOneof("input") == "chat"
    messages = tuple(Message(turn.role, turn.content) for turn in message.chat.messages)
    if message.system_prompt:
        if not chat:
            raise InvalidQuery("system_prompt", "is set without chat", "put it into the prompt, or use chat messages")
        messages = (Message("system", message.system_prompt), *messages)
    query_class = _CLASSES.get(message.query_class)
    if query_class is None:
        raise InvalidQuery("query_class", f"is {message.query_class}", f"give one of {', '.join(QueryClass)}")
    algorithm = parse_algorithm(_algorithm_from(message.algorithm))
    chain_rule = message.policy.chain_rule
    if chain_rule and not algorithm.takes_chain_rule:
        raise InvalidQuery("policy.chain_rule", f"is set, and {algorithm.name} has no chains for branches", "unset it")
    if message.probe.ByteSize() and not _is_probed(algorithm, chain_rule):
        right = "give policy.chain_rule, which makes its samples chains, or unset it"
        raise InvalidQuery(
            "probe",
            f"is set, and {algorithm.name} probes no chains",
            right if algorithm.takes_chain_rule else "unset it",
        )
    return Query(
        model=model,
        rule=message.policy.rule or algorithm.default_rule or rule,
        chain_rule=chain_rule,
        messages=messages if chat else (),
        prompt=message.prompt if message.WhichOneof("input") == "prompt" else None,
        sampling=_sampling_from(message.sampling),
        answer_type=_answer_type_from(message.answer_type),
        compared_by=message.compared_by,
        algorithm=str(algorithm),
        probe=_probe_from(message.probe),
        reward=_reward_from(message.reward),
        max_tokens=message.budget.max_tokens,
        deadline_seconds=(message.deadline.ToNanoseconds() / 1e9 if message.HasField("deadline") else deadline_seconds),
        query_class=query_class,
        tenant=message.tenant or "default",
        idempotency_key=message.idempotency_key,
        labels=dict(message.labels),
    )


def _is_probed(algorithm: AlgorithmParameters, chain_rule: str) -> bool:
    return algorithm.probes_chains or bool(chain_rule)


def _sampling_from(message: pb.SamplingParameters) -> SamplingParameters:
    if message.HasField("max_tokens") and not message.max_tokens:
        raise InvalidQuery("sampling.max_tokens", "is 0", "give at least 1 token")
    default = SamplingParameters()
    return SamplingParameters(
        temperature=message.temperature if message.HasField("temperature") else default.temperature,
        top_p=message.top_p if message.HasField("top_p") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else TOKENS_OF_THE_POOL,
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
        thinking_token_budget=message.thinking_token_budget if message.HasField("thinking_token_budget") else None,
    )


def _answer_type_from(name: str) -> AnswerType:
    try:
        return AnswerType(name or AnswerType.TEXT)
    except ValueError:
        raise InvalidQuery("answer_type", f"is {name!r}", f"give one of {', '.join(AnswerType)}") from None


def _algorithm_from(message: pb.Algorithm) -> str:
    """The type string; what is unset has its default."""
    if message.WhichOneof("kind") == "type_string":
        return message.type_string
    typed = message.self_consistency
    settings = [
        f"{name}={getattr(typed, name)}" for name in ("max_samples", "width", "idle_width") if typed.HasField(name)
    ]
    return ":".join([SelfConsistencyParameters.name, *filter(None, [",".join(settings)])])


def _probe_from(message: pb.Probe) -> ProbeParameters:
    default = ProbeParameters()
    return ProbeParameters(
        prompt=message.prompt,
        interval=message.interval if message.HasField("interval") else None,
        marks=message.marks if message.HasField("marks") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else default.max_tokens,
    )


def _reward_from(message: pb.Reward) -> RewardParameters | None:
    if not message.source:
        if message.ByteSize():
            right = f"give one of {', '.join(RewardSource)}"
            raise InvalidQuery("reward.source", "is missing beside other settings", right)
        return None
    try:
        source = RewardSource(message.source)
    except ValueError:
        right = f"give one of {', '.join(RewardSource)}"
        raise InvalidQuery("reward.source", f"is {message.source!r:.60}", right) from None
    return RewardParameters(source, model=message.model, verifier=message.verifier, task=message.task)


def _first_unknown(message: ProtoMessage, path: str) -> tuple[str, int] | None:
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        return path or message.DESCRIPTOR.name, unknown.field_number
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        inner = f"{path}.{field.name}" if path else field.name
        for child in value if field.is_repeated else (value,):
            found = _first_unknown(child, inner)
            if found is not None:
                return found
    return None


# --- to the wire ---


def query_message(query: Query) -> pb.Query:
    """A query as the client would have to send it to get the same, defaults included."""
    sampling = query.sampling
    message = pb.Query(
        sampling=pb.SamplingParameters(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            stop=sampling.stop,
            seed=sampling.seed,
            thinking_token_budget=sampling.thinking_token_budget,
        ),
        answer_type=query.answer_type.value,
        compared_by=query.compared_by,
        model=query.model,
        algorithm=_algorithm_message(query.algorithm),
        policy=pb.Policy(rule=query.rule, chain_rule=query.chain_rule),
        probe=_probe_message(query),
        reward=_reward_message(query),
        budget=pb.Budget(max_tokens=query.max_tokens),
        query_class=_CLASS_MESSAGES[query.query_class],
        tenant=query.tenant,
        idempotency_key=query.idempotency_key,
        labels=query.labels,
    )
    message.deadline.FromMilliseconds(round(query.deadline_seconds * 1000))
    if query.prompt is not None:
        message.prompt = query.prompt
    else:
        message.chat.messages.extend(pb.ChatMessage(role=turn.role, content=turn.content) for turn in query.messages)
    return message


def _algorithm_message(type_string: str) -> pb.Algorithm:
    parameters = parse_algorithm(type_string)
    if isinstance(parameters, SelfConsistencyParameters):
        typed = pb.SelfConsistency(
            max_samples=parameters.max_samples, width=parameters.width, idle_width=parameters.idle_width or None
        )
        message = pb.Algorithm(self_consistency=typed)
        if parse_algorithm(_algorithm_from(message)) == parameters:  # the type has all that was said
            return message
    return pb.Algorithm(type_string=type_string)


def _probe_message(query: Query) -> pb.Probe | None:
    """Only of a query whose chains are probed."""
    if not _is_probed(parse_algorithm(query.algorithm), query.chain_rule):
        return None
    probe = query.probe
    return pb.Probe(prompt=probe.prompt, interval=probe.interval, marks=probe.marks, max_tokens=probe.max_tokens)


def _reward_message(query: Query) -> pb.Reward | None:
    """Only of a query whose paths are judged."""
    reward = query.reward
    if reward is None:
        return None
    return pb.Reward(source=reward.source.value, model=reward.model, verifier=reward.verifier, task=reward.task)


def event_message(query_id: QueryId, sequence: int, record: Record) -> pb.QueryEvent:
    """A record as its public event. Records without one of their own show as what they lead to."""
    message = pb.QueryEvent(query_id=query_id, sequence=sequence)
    message.time.FromMilliseconds(record.time_ms)
    match record.event:
        case events.Accepted(pool=pool):
            message.accepted.pool = pool
        case events.Claimed(tracker=tracker, epoch=epoch):
            message.claimed.tracker = tracker
            message.claimed.epoch = epoch
        case events.AnswersCompared(equal=equal, unequal=unequal):
            message.answers_compared.CopyFrom(pb.AnswersCompared(merged=len(equal), separated=len(unequal)))
        case events.CancelRequested(reason=reason):
            message.cancel_requested.reason = reason
        case events.DeadlineReached():
            message.limit_reached.limit = "deadline"
        case events.BudgetReached():
            message.limit_reached.limit = "budget"
        case events.Finished(outcome=outcome):
            message.finished.phase = PHASE_MESSAGES[outcome.phase]
            message.finished.outcome.CopyFrom(outcome_message(outcome))
        case _:
            _set_news(message, record)
    return message


def _set_news(message: pb.QueryEvent, record: Record) -> None:
    """Sets what a record tells of one branch."""
    match record.event:
        case events.CallFinished() as finished:
            sample = message.sample_finished
            sample.branch = finished.branch
            sample.tokens = finished.tokens
            sample.samples = record.samples
            sample.certaindex = record.certaindex
            sample.finish_reason = finished.finish_reason
            if finished.answer is not None:
                sample.answer = finished.answer
            if finished.reward is not None:
                sample.reward = finished.reward
        case events.Probed() as probed:
            message.probed.CopyFrom(
                pb.Probed(
                    branch=probed.branch,
                    position=probed.position,
                    answer=probed.answer,
                    hesitant=probed.is_hesitant,
                    confidence=probed.confidence,
                    tokens=probed.tokens,
                    certaindex=record.certaindex,
                )
            )
        case events.Checkpointed(branch=branch, position=position):
            message.checkpointed.CopyFrom(pb.Checkpointed(branch=branch, position=position))
        case events.CallCancelled(branch=branch, attempt=attempt, tokens=tokens):
            message.call_cancelled.CopyFrom(pb.CallCancelled(branch=branch, attempt=attempt, tokens=tokens))
        case events.Rewarded(branch=branch, reward=reward, detail=detail):
            message.rewarded.CopyFrom(pb.Rewarded(branch=branch, reward=reward, detail=detail))
        case events.CallFailed() as failed:
            message.call_failed.CopyFrom(
                pb.CallFailed(
                    branch=failed.branch,
                    attempt=failed.attempt,
                    error=_error_message(failed.error),
                    tokens=failed.tokens,
                )
            )


def outcome_message(outcome: Outcome) -> pb.Outcome:
    """An outcome as clients see it."""
    ledger = outcome.ledger
    return pb.Outcome(
        answer=outcome.answer or "",
        text=outcome.text,
        certaindex=outcome.certaindex,
        rule=outcome.rule,
        stop_reason=outcome.stop_reason.value,
        stop_detail=outcome.stop_detail,
        samples=outcome.samples,
        votes=[pb.Vote(answer=answer or "", count=count) for answer, count in outcome.votes],
        ledger=pb.Ledger(
            tokens_spent=ledger.spent,
            tokens_cancelled=ledger.cancelled,
            tokens_lost=ledger.lost,
            tokens_saved_estimate=ledger.saved_estimate,
            prompt_tokens=ledger.prompt,
            cached_prompt_tokens=ledger.cached_prompt,
            tokens_probes=ledger.probes,
        ),
        latency_seconds=outcome.latency_seconds,
        error=_error_message(outcome.error) if outcome.error is not None else None,
    )


def state_message(snapshot: Snapshot) -> pb.QueryState:
    """A query's state."""
    accepted, last = snapshot.first.event, snapshot.last.event
    assert isinstance(accepted, events.Accepted)
    state = pb.QueryState(
        query_id=snapshot.query_id,
        query=query_message(accepted.query),
        phase=PHASE_MESSAGES[snapshot.phase],
        accepted_at=Timestamp(
            seconds=accepted.accepted_at_ms // 1000, nanos=accepted.accepted_at_ms % 1000 * 1_000_000
        ),
        last_sequence=snapshot.length - 1,
        samples=snapshot.samples,
        certaindex=snapshot.certaindex,
    )
    if isinstance(last, events.Finished):
        state.outcome.CopyFrom(outcome_message(last.outcome))
    return state


def _error_message(error: ProgramError) -> pb.QueryError:
    return pb.QueryError(reason=error.reason, message=error.message, retryable=error.retryable)
