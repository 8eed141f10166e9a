"""Where a query stands, folded from its events or read from its state: what displays and JSON are made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType, canonical

PHASES = {
    pb.QUERY_PHASE_UNSPECIFIED: "unknown",
    pb.QUERY_PHASE_QUEUED: "queued",
    pb.QUERY_PHASE_RUNNING: "running",
    pb.QUERY_PHASE_SUCCEEDED: "succeeded",
    pb.QUERY_PHASE_FAILED: "failed",
    pb.QUERY_PHASE_CANCELLED: "cancelled",
}


@dataclass(slots=True)
class Standing:
    """A query as far as it is known.

    While it runs, answers are counted by their canonical form and `tokens` are those of finished samples; the outcome
    brings the evaluator's votes and the whole ledger.
    """

    answer_type: str = ""
    query_id: str = ""
    phase: str = "unknown"
    samples: int = 0
    certaindex: float = 0.0
    tokens: int = 0
    probes: int = 0
    last_probe: str = ""  # what the latest probe said, and where
    failed_calls: int = 0
    last_failure: str = ""
    outcome: pb.Outcome | None = None
    _votes: dict[str, tuple[str, int]] = field(default_factory=dict)  # canonical key -> (as first seen, count)
    _unreadable: int = 0

    @property
    def votes(self) -> list[tuple[str, int]]:
        """(answer as first seen, how many gave it), largest first; samples without an answer last, as "".

        Of samples that are judged the outcome alone knows them: a judgement does not say whose it is.
        """
        if self.outcome is not None:
            return [(vote.answer, vote.count) for vote in self.outcome.votes]
        counted = sorted(self._votes.values(), key=lambda vote: -vote[1])
        return [*counted, ("", self._unreadable)] if self._unreadable else counted

    def apply(self, event: pb.QueryEvent) -> None:
        """Folds one event; events come in their order, each once."""
        self.query_id = event.query_id or self.query_id
        match event.WhichOneof("event"):
            case "accepted":
                self.phase = "queued"
            case "claimed":
                self.phase = "running"
            case "sample_finished":
                self._sample(event.sample_finished)
            case "probed":
                self._probed(event.probed)
            case "answers_compared":
                pass
            case "call_failed":
                self.failed_calls += 1
                self.last_failure = f"{event.call_failed.error.reason}: {event.call_failed.error.message}"
            case "finished":
                self._finish(PHASES[event.finished.phase], event.finished.outcome)
            case _:
                pass

    def read(self, state: pb.QueryState) -> None:
        """Takes over what Get or List says."""
        self.query_id = state.query_id
        self.answer_type = state.query.answer_type
        self.phase = PHASES[state.phase]
        self.samples = state.samples
        self.certaindex = state.certaindex
        if state.HasField("outcome"):
            self._finish(self.phase, state.outcome)

    def _probed(self, probed: pb.Probed) -> None:
        self.probes += 1
        self.certaindex = probed.certaindex
        confidence = f" ({probed.confidence:.3f})" if probed.HasField("confidence") else ""
        said = probed.answer if probed.HasField("answer") else "no answer"
        self.last_probe = f"{said}{confidence}{', hesitating' if probed.hesitant else ''} at {probed.position:,} tokens"

    def _sample(self, sample: pb.SampleFinished) -> None:
        counts = sample.samples > self.samples  # not a step of a tree, a judgement or a thought that is being concluded
        self.samples = sample.samples
        self.certaindex = sample.certaindex
        self.tokens += sample.tokens
        if not counts or sample.HasField("reward"):
            return
        if not sample.HasField("answer"):
            self._unreadable += 1
            return
        key = canonical(sample.answer, AnswerType(self.answer_type or AnswerType.TEXT)).key
        shown, count = self._votes.get(key, (sample.answer, 0))
        self._votes[key] = (shown, count + 1)

    def _finish(self, phase: str, outcome: pb.Outcome) -> None:
        self.phase = phase
        self.samples = outcome.samples
        self.certaindex = outcome.certaindex
        self.tokens = outcome.ledger.tokens_spent
        self.outcome = outcome


def standing_of(state: pb.QueryState) -> Standing:
    """The standing that a state describes."""
    standing = Standing()
    standing.read(state)
    return standing
