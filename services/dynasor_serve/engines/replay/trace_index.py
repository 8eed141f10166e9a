"""Which recording does a prompt mean?

A prompt names its recording with a marker anywhere in its text, or is, word for word, the prompt or the bare question
that a record stores; a prompt that goes on behind one of those means it too. `playback` asks once per request; built
once at start from `traces.read_records`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dynasor_serve.engines.replay.chat_template import Prompt
from dynasor_serve.engines.replay.errors import UnknownModel, UnknownPrompt
from dynasor_serve.engines.replay.records import ProbesRecord, Record, SamplesRecord, StepsRecord

_MARKER: Final = re.compile(r"\[\[trace:([^\[\]]+)\]\]")

_NAMED_AT_MOST: Final = 8  # datasets or models listed in a refusal


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """The chains of one question by one model run, by seed and then in recorded order.

    Of chains with equal seed and budget the first loaded counts.
    """

    records: tuple[ProbesRecord, ...]

    @classmethod
    def of(cls, records: Iterable[ProbesRecord]) -> Chains:
        """Put chains in order."""
        distinct: dict[object, ProbesRecord] = {}  # what tells a chain apart -> the chain
        for record in records:
            distinct.setdefault(id(record) if record.seed is None else (record.seed, record.budget), record)
        return cls(tuple(sorted(distinct.values(), key=lambda chain: (chain.seed is None, chain.seed or 0))))


Recording = SamplesRecord | Chains | StepsRecord

#: The name by which a prompt may ask for a kind of recording, whatever its run.
_KINDS: Final[dict[type[Recording], str]] = {SamplesRecord: "samples", Chains: "probes", StepsRecord: "steps"}


def label(recording: Recording) -> Record:
    """Return a record that says what a recording is of: model, dataset, question, run."""
    return recording.records[0] if isinstance(recording, Chains) else recording


def grouped(records: Iterable[Record]) -> Iterator[Recording]:
    """Yield recordings in the order of their first records: the chains of a question by one run are one."""
    groups: dict[object, list[Record]] = {}
    for record in records:
        is_chain = isinstance(record, ProbesRecord)
        run = (record.model, record.dataset, record.question_id, record.run_names) if is_chain else id(record)
        groups.setdefault(run, []).append(record)
    for group in groups.values():
        chains = [record for record in group if isinstance(record, ProbesRecord)]
        if chains:
            yield Chains.of(chains)
        else:
            yield from (record for record in group if not isinstance(record, ProbesRecord))


def behind_marker(prompt: str) -> int:
    """Return where the last marker of a prompt ends; 0 if there is none."""
    return max((found.end() for found in _MARKER.finditer(prompt)), default=0)


class TraceIndex:
    """Recordings by (model, dataset, question) and by exact prompt.

    Args:
        records: In the order of preference: of several recordings that a marker fits, the first is taken.
        names: Models under which every recording is found; empty: each under the model that it comes from.
    """

    def __init__(self, records: Iterable[Record], *, names: Sequence[str] = ()) -> None:
        self._by_model: dict[str, _ModelRecordings] = {}  # model -> its recordings
        self._recordings = 0
        for recording in grouped(records):
            for name in names or (label(recording).model,):
                self._by_model.setdefault(name, _ModelRecordings()).add(recording)
            self._recordings += 1

    def __len__(self) -> int:
        return self._recordings

    @property
    def models(self) -> tuple[str, ...]:
        """The models that records come from, in recorded order."""
        return tuple(self._by_model)

    def find(self, model: str, text: str, question: str) -> Record:
        """Return a record of the recording that a fresh prompt means; raises as `runs_of`.

        Args:
            model: Served model name.
            text: The whole prompt, where a marker is looked for.
            question: What may equal a recorded `prompt` or `question`, looked up when there is no marker.
        """
        return label(self.runs_of(model, Prompt(text, (question,), reply_at=len(text)))[0])

    def runs_of(self, model: str, prompt: Prompt) -> Sequence[Recording]:
        """Return the recordings that a prompt means, the preferred one first.

        The marker is `[[trace:DATASET/QUESTION_ID]]`. Question ids may hold slashes; where they already begin
        with the dataset ("aime24/0" of "aime24"), `[[trace:aime24/0]]` is enough. Several runs of one question
        are told apart by `#RUN` behind the id, RUN being the record's `run_id`, `source`, `method` or `effort`, or
        the kind of record, `samples`, `probes` or `steps`. Of several markers in one prompt the last counts: few-shot
        examples come first. Without a marker the prompt or one of its questions equals a recorded `prompt` or
        `question`, or a completion's prompt begins with one.

        Raises:
            UnknownModel: No record comes from this model.
            UnknownPrompt: No record fits, or a marker fits several questions.
        """
        recordings = self._by_model.get(model)
        if recordings is None:
            raise UnknownModel(f"The model `{model}` does not exist.", param="model")
        markers = _MARKER.findall(prompt.text, 0, len(prompt.text) if prompt.reply_at is None else prompt.reply_at)
        if markers:
            return recordings.of_marker(markers[-1], model)
        found = recordings.of_prompt(prompt)
        if found is not None:
            return (found,)
        raise UnknownPrompt(
            "No recorded trace answers this prompt: it holds no marker [[trace:DATASET/QUESTION_ID]] and equals no "
            f"recorded prompt. {recordings.hint(model)}",
            param="prompt",
        )


class _ModelRecordings:
    """The recordings of one model."""

    def __init__(self) -> None:
        self._exact: defaultdict[str, list[Recording]] = defaultdict(list)  # "dataset/question_id" -> runs
        self._short: defaultdict[str, list[Recording]] = defaultdict(list)  # question_id that begins with dataset
        self._prompts: dict[str, Recording] = {}  # prompt or question without outer blanks -> recording
        self._prompt_lengths: set[int] = set()  # in characters

    def add(self, recording: Recording) -> None:
        record = label(recording)
        self._exact[f"{record.dataset}/{record.question_id}"].append(recording)
        if record.question_id.startswith(record.dataset + "/"):
            self._short[record.question_id].append(recording)
        for text in (record.prompt, record.question):
            if text is not None and text.strip():
                self._prompts.setdefault(text.strip(), recording)
                self._prompt_lengths.add(len(text.strip()))

    def of_prompt(self, prompt: Prompt) -> Recording | None:
        """Return what equals a question of the prompt, or what the prompt goes on behind; the longest such."""
        for question in prompt.questions:
            if (found := self._prompts.get(question.strip())) is not None:
                return found
        text = prompt.text.lstrip()
        beginnings = (text[:length] for length in sorted(self._prompt_lengths, reverse=True) if length < len(text))
        if prompt.reply_at is not None:
            return None
        return next((self._prompts[beginning] for beginning in beginnings if beginning in self._prompts), None)

    def of_marker(self, marker: str, model: str) -> Sequence[Recording]:
        marker = marker.strip()
        runs, run = self._runs_of(marker), ""
        if not runs and "#" in marker:
            question, _, run = marker.rpartition("#")
            runs = self._runs_of(question)
        if not runs:
            raise UnknownPrompt(f"No recorded trace for [[trace:{marker}]]. {self.hint(model)}", param="prompt")
        questions = {(label(recording).dataset, label(recording).question_id) for recording in runs}
        if len(questions) > 1:
            readings = " or ".join(f"dataset {dataset!r} question {id_!r}" for dataset, id_ in sorted(questions))
            raise UnknownPrompt(f"[[trace:{marker}]] is ambiguous: {readings}.", param="prompt")
        fitting = [recording for recording in runs if not run or run in _run_names(recording)]
        if fitting:
            return fitting
        known = ", ".join(dict.fromkeys(_run_names(recording)[0] for recording in runs))
        raise UnknownPrompt(f"No run {run!r} for [[trace:{marker}]]; recorded: {known}.", param="prompt")

    def _runs_of(self, key: str) -> list[Recording]:
        return self._exact.get(key) or self._short.get(key, [])

    def hint(self, model: str) -> str:
        """Say which markers would be right for this model."""
        firsts: dict[str, str] = {}  # dataset -> one of its question ids
        for runs in self._exact.values():
            record = label(runs[0])
            firsts.setdefault(record.dataset, record.question_id)
        named = [f"[[trace:{dataset}/{id_}]]" for dataset, id_ in list(firsts.items())[:_NAMED_AT_MOST]]
        more = f" and {len(firsts) - len(named)} more datasets" if len(firsts) > len(named) else ""
        return f"Model `{model}` has {len(self._exact)} recorded questions, for example {', '.join(named)}{more}."


def _run_names(recording: Recording) -> tuple[str, ...]:
    return (*label(recording).run_names, _KINDS[type(recording)])
