"""Which record does a prompt mean?

A prompt names its record with a marker anywhere in its text, or is, word for word, the prompt or the bare question
that a record stores. `app` asks once per request; built once at start from `traces.read_records`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from dynasor_serve.engines.replay.errors import UnknownModel, UnknownPrompt
from dynasor_serve.engines.replay.traces import SamplesRecord

_MARKER: Final = re.compile(r"\[\[trace:([^\[\]]+)\]\]")

_NAMED_AT_MOST: Final = 8  # datasets or models listed in a refusal


class TraceIndex:
    """Records by (model, dataset, question) and by exact prompt.

    Args:
        records: In the order of preference: of several records that a marker fits, the first is taken.
    """

    def __init__(self, records: Iterable[SamplesRecord]) -> None:
        self._by_model: dict[str, _ModelRecords] = {}  # model -> its records
        self._record_count = 0
        for record in records:
            self._by_model.setdefault(record.model, _ModelRecords()).add(record)
            self._record_count += 1

    def __len__(self) -> int:
        return self._record_count

    @property
    def models(self) -> tuple[str, ...]:
        """The models that records come from, in recorded order."""
        return tuple(self._by_model)

    def find(self, model: str, text: str, question: str) -> SamplesRecord:
        """Return the record that a prompt means.

        The marker is `[[trace:DATASET/QUESTION_ID]]`. Question ids may hold slashes; where they already begin
        with the dataset ("aime24/0" of "aime24"), `[[trace:aime24/0]]` is enough. Several runs of one question
        are told apart by `#RUN` behind the id, RUN being the record's `run_id`, `method` or `effort`; without
        it the first loaded one is taken. Of several markers in one prompt the last counts: few-shot examples
        come first.

        Args:
            model: Served model name, equal to the records' `model`.
            text: The whole prompt, where a marker is looked for.
            question: What may equal a recorded `prompt` or `question`, looked up when there is no marker.

        Raises:
            UnknownModel: No record comes from this model.
            UnknownPrompt: No record fits, or a marker fits several questions.
        """
        records = self._by_model.get(model)
        if records is None:
            raise UnknownModel(f"The model `{model}` does not exist.", param="model")
        markers = _MARKER.findall(text)
        if markers:
            return records.of_marker(markers[-1], model)
        record = records.of_prompt(question)
        if record is not None:
            return record
        raise UnknownPrompt(
            "No recorded trace answers this prompt: it holds no marker [[trace:DATASET/QUESTION_ID]] and equals no "
            f"recorded prompt. {records.hint(model)}",
            param="prompt",
        )


class _ModelRecords:
    """The records of one model."""

    def __init__(self) -> None:
        self._exact: defaultdict[str, list[SamplesRecord]] = defaultdict(list)  # "dataset/question_id" -> runs
        self._short: defaultdict[str, list[SamplesRecord]] = defaultdict(list)  # question_id that begins with dataset
        self._prompts: dict[str, SamplesRecord] = {}  # prompt or question without outer blanks -> record

    def add(self, record: SamplesRecord) -> None:
        self._exact[f"{record.dataset}/{record.question_id}"].append(record)
        if record.question_id.startswith(record.dataset + "/"):
            self._short[record.question_id].append(record)
        for text in (record.prompt, record.question):
            if text is not None:
                self._prompts.setdefault(text.strip(), record)

    def of_prompt(self, question: str) -> SamplesRecord | None:
        return self._prompts.get(question.strip())

    def of_marker(self, marker: str, model: str) -> SamplesRecord:
        marker = marker.strip()
        runs, run = self._runs_of(marker), ""
        if not runs and "#" in marker:
            question, _, run = marker.rpartition("#")
            runs = self._runs_of(question)
        if not runs:
            raise UnknownPrompt(f"No recorded trace for [[trace:{marker}]]. {self.hint(model)}", param="prompt")
        questions = {(record.dataset, record.question_id) for record in runs}
        if len(questions) > 1:
            readings = " or ".join(f"dataset {dataset!r} question {id_!r}" for dataset, id_ in sorted(questions))
            raise UnknownPrompt(f"[[trace:{marker}]] is ambiguous: {readings}.", param="prompt")
        for record in runs:
            if not run or run in (record.run_id, record.method, str(record.effort)):
                return record
        known = ", ".join(dict.fromkeys(_run_name(record) for record in runs))
        raise UnknownPrompt(f"No run {run!r} for [[trace:{marker}]]; recorded: {known}.", param="prompt")

    def _runs_of(self, key: str) -> list[SamplesRecord]:
        return self._exact.get(key) or self._short.get(key, [])

    def hint(self, model: str) -> str:
        """Say which markers would be right for this model."""
        firsts: dict[str, str] = {}  # dataset -> one of its question ids
        for runs in self._exact.values():
            firsts.setdefault(runs[0].dataset, runs[0].question_id)
        named = [f"[[trace:{dataset}/{id_}]]" for dataset, id_ in list(firsts.items())[:_NAMED_AT_MOST]]
        more = f" and {len(firsts) - len(named)} more datasets" if len(firsts) > len(named) else ""
        return f"Model `{model}` has {len(self._exact)} recorded questions, for example {', '.join(named)}{more}."


def _run_name(record: SamplesRecord) -> str:
    return record.run_id or record.method or str(record.effort)
