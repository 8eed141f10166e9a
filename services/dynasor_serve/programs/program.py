"""A program: the fold of its log, and what should happen next.

`fold` takes one event; `directive` says what should be running now. Both are pure, so the live tracker, the replay of
traces and the simulator run the same code, and any tracker can take a program over by folding its log
(docs/decisions/0001-level-triggered-programs.md). Called by `tracker.driver`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dynasor_serve.certaindex.verdict import VerdictKind
from dynasor_serve.programs.algorithm import Aggregate, Algorithm, Assessment
from dynasor_serve.programs.events import (
    Accepted,
    AnswersCompared,
    BudgetReached,
    CallCancelled,
    CallFailed,
    CallFinished,
    CancelRequested,
    Checkpointed,
    Claimed,
    DeadlineReached,
    Event,
    Finished,
    Outcome,
    Phase,
    Probed,
    ProgramError,
    Rewarded,
    StopReason,
)
from dynasor_serve.programs.growing import GrowingSet
from dynasor_serve.programs.ledger import Ledger
from dynasor_serve.programs.query import Branch, Query
from dynasor_serve.programs.registry import parse_algorithm

# A branch that failed this often is abandoned: a retry without a bound is how overload feeds itself.
MAX_ATTEMPTS = 5


# What is heard of a program's branches.
News = CallFinished | CallFailed | CallCancelled | Checkpointed | Probed | Rewarded


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the program is over."""

    reason: StopReason
    detail: str


@dataclass(frozen=True, slots=True)
class Program:
    """All that is known of one program."""

    query: Query
    pool: str
    accepted_at_ms: int
    algorithm: Algorithm
    assessment: Assessment
    epoch: int = 0
    ledger: Ledger = Ledger()
    finished_tokens: int = 0  # completion tokens of branches whose evidence counts
    text_characters: int = 0  # of all texts in its log
    failures: Mapping[Branch, int] = field(default_factory=dict)  # branch -> attempts that failed
    abandoned: frozenset[Branch] = frozenset()
    seen: GrowingSet[tuple[Branch, str]] = field(default_factory=GrowingSet)  # ended calls: (branch, attempt)
    counted: GrowingSet[Branch] = field(default_factory=GrowingSet)  # branches whose evidence counts
    positions: Mapping[Branch, int] = field(default_factory=dict)  # chain -> tokens up to its last checkpoint
    probed: Mapping[Branch, int] = field(default_factory=dict)  # chain -> tokens up to its last probe
    rewarded: frozenset[Branch] = frozenset()  # branches that the verifier has judged
    unjudged: tuple[str, ...] = ()  # why paths count as reward 0 that nobody could judge, in order
    stop: Stop | None = None
    last_error: ProgramError | None = None
    outcome: Outcome | None = None

    @property
    def deadline_ms(self) -> int:
        """When the program must be final, in Unix milliseconds."""
        return self.accepted_at_ms + round(self.query.deadline_seconds * 1000)

    @property
    def mean_tokens_per_branch(self) -> float:
        """Mean completion tokens of a unit of the knob; 0 where none counts yet."""
        return self.finished_tokens / self.assessment.samples if self.assessment.samples else 0.0

    @property
    def mean_prompt_tokens(self) -> float:
        """Mean prompt tokens of a call; 0 where none has ended."""
        return self.ledger.prompt / len(self.seen) if self.seen else 0.0

    @property
    def budget_now(self) -> int:
        """Completion tokens after which `BudgetReached` is due; 0 where there is no bound."""
        budget, reserve = self.query.max_tokens, self.algorithm.reserve
        if not budget or reserve.is_being_spent:
            return 0
        return max(1, budget - reserve.tokens)


@dataclass(frozen=True, slots=True)
class Directive:
    """What should be so now. The driver makes it so: it starts what is missing and cancels what is too much."""

    wanted: tuple[Branch, ...]
    compare: tuple[tuple[str, str], ...]
    verify: tuple[tuple[Branch, str], ...]  # texts for the query's verifier
    stop: Stop | None
    remaining_knob: int
    speculative: int = 0  # so many of `wanted`, the last ones, are wanted only where the pool is idle
    gain_per_token: float = 0.0  # expected of the next unit of the knob, see `Algorithm`; 0 where nothing is known


def accept(event: Accepted) -> Program:
    """The program that its first event makes.

    Raises:
        InvalidQuery, InvalidRule: the algorithm or its rule is unknown, or they do not fit.
    """
    query = event.query
    algorithm = parse_algorithm(query.algorithm).start(query)
    if 0 < query.max_tokens <= algorithm.reserve.tokens:  # one call may need all of the budget
        algorithm = algorithm.hastened(frozenset()) or algorithm
    return Program(
        query=query,
        pool=event.pool,
        accepted_at_ms=event.accepted_at_ms,
        algorithm=algorithm,
        assessment=algorithm.assess(frozenset()),
    )


def fold_log(events: Iterable[Event]) -> Program:
    """The program that a whole log makes. Raises `ValueError` when the log does not begin with `Accepted`."""
    events = iter(events)
    first = next(events, None)
    if not isinstance(first, Accepted):
        raise ValueError(f"a program's log begins with Accepted, not with {type(first).__name__}")
    program = accept(first)
    for event in events:
        program = fold(program, event)
    return program


def fold(program: Program, event: Event) -> Program:
    """The program after one more event. Events that repeat or come after the end change nothing but the ledger."""
    if program.outcome is not None:
        return program
    if isinstance(event, News):
        return _fold_news(program, event)
    match event:
        case AnswersCompared():
            return _reassessed(replace(program, algorithm=program.algorithm.compared(event)))
        case Claimed():
            return replace(program, epoch=event.epoch, ledger=program.ledger.with_lost(event.tokens_lost))
        case CancelRequested():
            return _stopped(program, StopReason.CANCELLED, event.reason or "cancelled by the user")
        case DeadlineReached():
            detail = f"the deadline of {program.query.deadline_seconds:g} s passed"
            return _stopped(program, StopReason.STOP_DEADLINE, detail)
        case BudgetReached():
            return _out_of_budget(program, event.tokens)
        case Finished():
            return replace(program, outcome=event.outcome)
        case Accepted():
            return program


def directive(program: Program) -> Directive:
    """What should be so now."""
    if program.stop is not None or program.outcome is not None:
        return Directive(wanted=(), compare=(), verify=(), stop=program.stop, remaining_knob=0)
    algorithm, mean_tokens = program.algorithm, program.mean_tokens_per_branch
    wanted = algorithm.wanted(program.abandoned)
    remaining = algorithm.remaining(program.abandoned)
    return Directive(
        wanted=wanted,
        compare=algorithm.open_comparisons(),
        verify=algorithm.unverified(),
        stop=None,
        remaining_knob=remaining,
        speculative=algorithm.speculative(wanted),
        gain_per_token=algorithm.expected_gain(program.assessment, remaining) / mean_tokens if mean_tokens else 0.0,
    )


def with_cancelled(program: Program, tokens: int, prompt_tokens: int) -> Program:
    """Books a running call that was cancelled. Only `finish` follows: the sum reaches the log in the outcome."""
    return replace(program, ledger=program.ledger.with_cancelled(tokens, prompt_tokens))


def finish(program: Program, now_ms: int) -> Finished:
    """The final event of a stopped program.

    Args:
        program: stopped, with its running calls cancelled and booked.
        now_ms: Unix milliseconds.
    """
    assert program.stop is not None, "only a stopped program finishes"
    aggregate = program.algorithm.aggregate()
    phase, error = _final_phase(program, aggregate.answer)
    cost_at_cap = program.algorithm.cost_at_cap(program.finished_tokens, program.abandoned)
    return Finished(
        Outcome(
            phase=phase,
            stop_reason=StopReason.FAILED if phase is Phase.FAILED else program.stop.reason,
            stop_detail="; ".join(
                (program.stop.detail, *(_remarks(program, aggregate) if phase is Phase.SUCCEEDED else ()))
            ),
            rule=program.query.rule,
            answer=aggregate.answer,
            text=aggregate.text,
            certaindex=program.assessment.certaindex,
            samples=program.assessment.samples,
            votes=aggregate.votes,
            ledger=program.ledger.closed(cost_at_cap),
            latency_seconds=max(0, now_ms - program.accepted_at_ms) / 1000,
            error=error,
        )
    )


def ended_without_evidence(
    accepted: Accepted, phase: Phase, reason: StopReason, detail: str, now_ms: int, error: ProgramError | None = None
) -> Outcome:
    """The outcome of a program that ends before anything ran: cancelled in the queue, or unreadable."""
    return Outcome(
        phase=phase,
        stop_reason=reason,
        stop_detail=detail,
        rule=accepted.query.rule,
        answer=None,
        text="",
        certaindex=0.0,
        samples=0,
        votes=(),
        ledger=Ledger(),
        latency_seconds=max(0, now_ms - accepted.accepted_at_ms) / 1000,
        error=error,
    )


def _fold_news(program: Program, event: News) -> Program:
    match event:
        case CallFinished():
            return _fold_finished(program, event)
        case CallFailed():
            return _fold_failed(program, event)
        case CallCancelled():
            return _fold_cancelled(program, event)
        case Checkpointed():
            return _fold_checkpointed(program, event)
        case Probed():
            return _fold_probed(program, event)
        case Rewarded():
            return _fold_rewarded(program, event)


def _fold_finished(program: Program, event: CallFinished) -> Program:
    call = (event.branch, event.attempt)
    if call in program.seen:
        return program
    ledger = program.ledger
    seen, characters = program.seen.with_item(call), program.text_characters + len(event.text)
    if event.branch in program.counted:  # a second attempt of a branch that has its evidence
        ledger = ledger.with_lost(event.tokens, event.prompt_tokens)
        return replace(program, seen=seen, text_characters=characters, ledger=ledger)
    if program.stop is not None:  # it ended between the verdict and its cancellation
        ledger = ledger.with_cancelled(event.tokens, event.prompt_tokens)
        return replace(program, seen=seen, text_characters=characters, ledger=ledger)
    algorithm, abandoned = program.algorithm.observe(event), program.abandoned - {event.branch}
    return _followed(
        replace(
            program,
            seen=seen,
            text_characters=characters,
            algorithm=algorithm,
            assessment=algorithm.assess(abandoned),
            counted=program.counted.with_item(event.branch),
            abandoned=abandoned,
            ledger=ledger.with_finished(event.tokens, event.prompt_tokens, event.cached_prompt_tokens),
            finished_tokens=program.finished_tokens + event.tokens,
        )
    )


def _fold_cancelled(program: Program, event: CallCancelled) -> Program:
    call = (event.branch, event.attempt)
    if call in program.seen:
        return program
    ledger = program.ledger.with_cancelled(event.tokens, event.prompt_tokens)
    return replace(program, seen=program.seen.with_item(call), ledger=ledger)


def _fold_checkpointed(program: Program, event: Checkpointed) -> Program:
    tokens = event.position - program.positions.get(event.branch, 0)
    if tokens <= 0:  # a repetition
        return program
    program = replace(
        program,
        positions={**program.positions, event.branch: event.position},
        text_characters=program.text_characters + len(event.text),
    )
    if program.stop is not None:  # it came between the verdict and the cancellation
        return replace(program, ledger=program.ledger.with_cancelled(tokens))
    return _reassessed(
        replace(
            program,
            algorithm=program.algorithm.checkpointed(event),
            ledger=program.ledger.with_finished(tokens, 0, 0),
            finished_tokens=program.finished_tokens + tokens,
        )
    )


def _fold_probed(program: Program, event: Probed) -> Program:
    if event.position <= program.probed.get(event.branch, -1):
        return program
    program = replace(
        program,
        probed={**program.probed, event.branch: event.position},
        ledger=program.ledger.with_probe(event.tokens, event.prompt_tokens, event.cached_prompt_tokens),
    )
    if program.stop is not None or event.branch in program.counted:
        return program
    return _reassessed(replace(program, algorithm=program.algorithm.probed(event)))


def _fold_rewarded(program: Program, event: Rewarded) -> Program:
    if event.branch in program.rewarded or program.stop is not None:
        return program
    if event.error is not None:  # the verifier would refuse the other branches alike
        return _stopped(replace(program, last_error=event.error), StopReason.FAILED, event.error.message)
    if not event.is_judged:
        program = replace(program, unjudged=(*program.unjudged, event.detail))
    algorithm = program.algorithm.rewarded(event)
    return _reassessed(replace(program, rewarded=program.rewarded | {event.branch}, algorithm=algorithm))


def _fold_failed(program: Program, event: CallFailed) -> Program:
    call = (event.branch, event.attempt)
    if call in program.seen:
        return program
    program = replace(
        program,
        seen=program.seen.with_item(call),
        ledger=program.ledger.with_lost(event.tokens, event.prompt_tokens),
        last_error=event.error,
    )
    if event.branch in program.counted or program.stop is not None:
        return program
    failed = program.failures.get(event.branch, 0) + 1
    program = replace(program, failures={**program.failures, event.branch: failed})
    if event.error.retryable and failed < MAX_ATTEMPTS:
        return program
    if not event.error.retryable and not program.counted and not program.positions:
        # The engine refused the query itself: the other branches would be refused alike.
        return _stopped(program, StopReason.FAILED, event.error.message)
    if event.branch not in program.abandoned:
        if program.algorithm.call(event.branch).judge is not None:
            program = replace(program, unjudged=(*program.unjudged, event.error.message))
        algorithm = program.algorithm.given_up(event.branch)
        program = replace(program, algorithm=algorithm, abandoned=program.abandoned | {event.branch})
    return _reassessed(program)


def _reassessed(program: Program) -> Program:
    return _followed(replace(program, assessment=program.algorithm.assess(program.abandoned)))


def _followed(program: Program) -> Program:
    """With what follows from how it stands now: it may be at its end."""
    assessment = program.assessment
    if assessment.exhausted:
        if not assessment.samples and program.last_error is not None:
            return _stopped(program, StopReason.FAILED, f"every branch failed; last: {program.last_error.message}")
        return _stopped(program, StopReason.CAP, f"ran to its end: {assessment.verdict.reason}")
    if assessment.verdict.kind in _VERDICT_STOPS:
        return _stopped(program, _VERDICT_STOPS[assessment.verdict.kind], assessment.verdict.reason)
    if program.budget_now and program.ledger.spent >= program.budget_now:
        return _out_of_budget(program, program.ledger.spent)
    if program.algorithm.reserve.is_in_vain and program.algorithm.reserve.wants_spender:
        hastened = program.algorithm.hastened(program.abandoned)
        return program if hastened is None else _reassessed(replace(program, algorithm=hastened))
    return program


def _out_of_budget(program: Program, tokens: int) -> Program:
    reserve = program.algorithm.reserve
    if program.stop is not None or reserve.is_being_spent:
        return program
    if tokens < program.budget_now:  # told of the part before the reserve, whose spender has ended since: a repetition
        return program
    hastened = program.algorithm.hastened(program.abandoned) if reserve.tokens else None
    if hastened is not None:  # what is reserved still serves to bring an answer
        return _reassessed(replace(program, algorithm=hastened))
    detail = f"{tokens} of {program.query.max_tokens} budgeted tokens are generated"
    return _stopped(program, StopReason.STOP_BUDGET, detail)


def _remarks(program: Program, aggregate: Aggregate) -> Iterator[str]:
    """What is to be known of how the answer was chosen."""
    if aggregate.answer is not None and not aggregate.is_judged:
        yield "the answer was not judged"
    if program.unjudged:
        count = len(program.unjudged)
        yield f"{count} path{'s' * (count > 1)} could not be judged and got reward 0; last: {program.unjudged[-1]}"


def _final_phase(program: Program, answer: str | None) -> tuple[Phase, ProgramError | None]:
    assert program.stop is not None
    if program.stop.reason is StopReason.CANCELLED:
        return Phase.CANCELLED, None
    if program.stop.reason is StopReason.FAILED:
        return Phase.FAILED, program.last_error
    if answer is not None:
        return Phase.SUCCEEDED, None
    if program.assessment.samples:
        kind = program.query.answer_type
        message = (
            f"no {kind} answer could be read from {program.assessment.samples} samples; ask for one, or another type"
        )
        return Phase.FAILED, ProgramError("NO_ANSWER", message)
    if program.stop.reason is StopReason.STOP_DEADLINE:
        cause = f"; last error: {program.last_error.message}" if program.last_error else ""
        message = f"{program.stop.detail} before any sample finished{cause}; give a longer deadline or fewer tokens"
        return Phase.FAILED, ProgramError("DEADLINE_EXCEEDED", message, retryable=True)
    message = f"{program.stop.detail} before any sample finished; give a larger budget or fewer tokens per call"
    return Phase.FAILED, ProgramError("BUDGET_EXHAUSTED", message)


_VERDICT_STOPS = {
    VerdictKind.STOP_CERTAIN: StopReason.STOP_CERTAIN,
    VerdictKind.STOP_UNPROMISING: StopReason.STOP_UNPROMISING,
}


def _stopped(program: Program, reason: StopReason, detail: str) -> Program:
    return program if program.stop is not None else replace(program, stop=Stop(reason, detail))
