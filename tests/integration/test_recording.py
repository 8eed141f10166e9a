"""Live programs become traces, and the replay engine answers from these as the programs were answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType, canonical, extract
from dynasor_serve.cli.partial_file import locked
from dynasor_serve.engines.replay.records import ProbesRecord, SamplesRecord, StepsRecord
from dynasor_serve.engines.replay.traces import read_records
from dynasor_serve.local.questions.question_set import TRACES, WORD_PROBLEMS, Question, read_questions
from dynasor_serve.local.recording.recorder import Recipe, jobs_of, recorded
from dynasor_serve.local.recording.trace_lines import NotRecordable, trace_line

from fakes.replay_process import SYNTHETIC_VOTES
from fakes.running_stack import FAST, RunningStack, outcome_of, running_stack
from fakes.synthetic_chains import CHAINS, TREES

#: So that a chain does not outrun its probes: 64 tokens take 0.1 s.
UNHURRIED = ("--ttft-ms", "1", "--time-per-output-token-ms", "2", "--stream-interval", "1")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    async with running_stack(*UNHURRIED, traces=(SYNTHETIC_VOTES, CHAINS, TREES)) as running:
        yield running


async def record(stack: RunningStack, question: Question, algorithm: str, repeats: int = 1) -> list[dict[str, Any]]:
    recipe = Recipe(
        dataset="recorded",
        run_id="again",
        query=pb.Query(
            algorithm=pb.Algorithm(type_string=algorithm),
            sampling=pb.SamplingParameters(max_tokens=2000),
            probe=pb.Probe(interval=64) if algorithm.startswith("chain") else None,
        ),
        style=None,
    )
    programs = recorded(stack.stub, stack.redis, recipe, jobs_of([question], repeats), concurrency=2)
    return [trace_line(program) async for program in programs]


def written(lines: list[dict[str, Any]], path: Path) -> list[Any]:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(read_records([path]))


async def test_votes_are_recorded_as_they_were_given(stack: RunningStack, tmp_path: Path) -> None:
    question = Question("q19", "Think. [[trace:synthetic/q19]]", "136", AnswerType.NUMBER)
    (line,) = await record(stack, question, "self-consistency:max_samples=16,width=16")
    (again,) = written([line], tmp_path / "votes.jsonl")
    source = next(each for each in read_records([SYNTHETIC_VOTES]) if each.question_id == "q19")
    assert isinstance(again, SamplesRecord)
    assert isinstance(source, SamplesRecord)
    keys = [
        [sample.answer if sample.answer != "=gold" else "136" for sample in each.samples] for each in (again, source)
    ]
    assert keys[0] == keys[1]
    assert [sample.tokens for sample in again.samples] == [sample.tokens for sample in source.samples]
    assert [sample.correct for sample in again.samples] == [sample.correct for sample in source.samples]


async def test_a_chain_is_recorded_with_its_probes(stack: RunningStack, tmp_path: Path) -> None:
    question = Question("diverging", "Think. [[trace:synthetic-chains/diverging]]", "17", AnswerType.NUMBER)
    (line,) = await record(stack, question, "chain-of-thought:answer_tokens=0")
    (again,) = written([line], tmp_path / "chains.jsonl")
    assert isinstance(again, ProbesRecord)
    assert (again.tokens, again.finished, again.final_answer) == (780, True, "4211")
    trials = again.trials()
    assert len(trials) >= 4
    assert all(trial.answer == str(4200 + trial.position // 64 - 1) for trial in trials)

    # A replay of the recording answers every probe as the program was answered.
    async with running_stack(*UNHURRIED, traces=(tmp_path / "chains.jsonl",)) as other:
        (repeated,) = await record(other, question_of(again), "chain-of-thought:answer_tokens=0")
    # A busy machine may take a probe less: what falls due while another runs is asked afterwards, the newest only.
    first, second = ({row[0]: trial_at(each, row) for row in each["probes"]} for each in (line, repeated))
    assert len(first.keys() & second.keys()) >= 4
    assert all(first[position] == second[position] for position in first.keys() & second.keys())
    assert repeated["text"] == line["text"]


def trial_at(line: dict[str, Any], row: list[float]) -> tuple[str, float, float]:
    """(answer, confidence, tokens) of one probe."""
    return line["answers"][int(row[1])], row[3], row[4]


def question_of(chain: ProbesRecord) -> Question:
    return Question(chain.question_id, f"[[trace:recorded/{chain.question_id}]]", "17", AnswerType.NUMBER)


async def test_a_chain_that_was_cut_is_recorded_with_the_answer_it_was_asked_for(
    stack: RunningStack, tmp_path: Path
) -> None:
    question = Question("unfinished", "Think. [[trace:synthetic-chains/unfinished]]", "9", AnswerType.NUMBER)
    (line,) = await record(stack, question, "chain-of-thought:answer_tokens=64")
    (again,) = written([line], tmp_path / "cut.jsonl")
    assert isinstance(again, ProbesRecord)
    assert (again.finished, again.tokens) == (False, 1200)
    assert again.final_answer == "=gold"


async def test_a_tree_is_recorded_with_its_values(stack: RunningStack, tmp_path: Path) -> None:
    question = Question("stepwise", "Think. [[trace:synthetic-trees/stepwise]]", "12", AnswerType.NUMBER)
    (line,) = await record(stack, question, "rebase:width=4")
    (again,) = written([line], tmp_path / "trees.jsonl")
    assert isinstance(again, StepsRecord)
    first = again.steps[0].candidates
    assert len(first) == 4
    assert {candidate.value for candidate in first} <= {0.9, 0.3, 0.75}
    assert len(again.final) == 4
    assert any(candidate.correct for candidate in again.final)


async def test_programs_that_were_stopped_make_no_trace(stack: RunningStack) -> None:
    question = Question("q00", "Think. [[trace:synthetic/q00]]", "3", AnswerType.NUMBER)
    with pytest.raises(NotRecordable, match="best-of-n has no trace format"):
        await record(stack, question, "best-of-n:max_samples=2")


# --- the command


class Command:
    """`dynasor record` of some questions, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.questions, self.out = directory / "questions.jsonl", directory / "trace.jsonl.gz"
        self.ask({f"q{number:02}": str(7 * number + 3) for number in range(3)})

    def ask(self, gold: dict[str, str]) -> None:
        lines = [
            {"id": each, "question": f"[[trace:synthetic/{each}]]", "gold": gold[each], "answer_type": "number"}
            for each in gold
        ]
        self.questions.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async def run(self, algorithm: str = "self-consistency:max_samples=2") -> tuple[int | None, str]:
        """(exit status, what it said)."""
        arguments = (str(self.questions), str(self.out), "--engine", "replay", "--traces", str(SYNTHETIC_VOTES))
        command = (sys.executable, "-m", "dynasor_serve.cli", "record", *arguments, "--algorithm", algorithm)
        pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=joined)
        said, _ = await asyncio.wait_for(process.communicate(), timeout=120)
        return process.returncode, " ".join(said.decode().split())

    def trace(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in gzip.decompress(self.out.read_bytes()).splitlines()]

    @property
    def partial(self) -> Path:
        return self.out.with_name(f"{self.out.name}.partial")

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.out.parent.iterdir()} - {self.questions.name}


async def test_the_command_writes_a_whole_trace_or_none(tmp_path: Path) -> None:
    command = Command(tmp_path)

    code, said = await command.run()

    assert code == 0, said
    assert "3 programs recorded" in said
    assert [line["question_id"] for line in command.trace()] == ["q00", "q01", "q02"]
    assert command.files == {"trace.jsonl.gz"}
    code, said = await command.run()
    assert code == 2
    assert "exists; move it away" in said


async def test_a_recording_that_broke_off_goes_on_as_it_was_begun_and_not_otherwise(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.ask({"nobody-has-this": "1"})
    assert (await command.run("chain-of-thought"))[0] == 1, "and with no line there is nothing to go on from"
    command.ask({"q00": "3", "nobody-has-this": "1", "q01": "10"})
    code, said = await command.run()
    assert code == 1
    assert "1 program left out; nobody-has-this" in said
    assert command.files == {"trace.jsonl.gz.partial", "trace.jsonl.gz.record"}
    with command.partial.open("ab") as file:
        file.write(b'{"question_id": "torn')
    left = command.partial.read_bytes()

    code, said = await command.run("self-consistency:max_samples=3")
    assert code == 2
    assert "was begun with other options: algorithm was 'self-consistency:max_samples=2" in said
    assert command.partial.read_bytes() == left

    command.ask({"q00": "3", "q01": "11", "q02": "17"})  # of q01 another answer is right now
    code, said = await command.run()
    assert code == 0, said
    assert [(line["question_id"], line["gold"]) for line in command.trace()] == [
        ("q00", "3"),
        ("q01", "11"),
        ("q02", "17"),
    ]
    assert gzip.decompress(command.out.read_bytes()).splitlines()[0] in left.splitlines(), "it is recorded once"
    assert command.files == {"trace.jsonl.gz"}


async def test_a_second_recorder_is_kept_out(tmp_path: Path) -> None:
    command = Command(tmp_path)
    with locked(command.out, "record"):
        code, said = await command.run()

    assert code == 2
    assert "another `dynasor record` is writing trace.jsonl.gz" in said


@pytest.mark.parametrize("algorithm", ["mcts", "best-of-n:max_samples=2", "iterative-cot"])
async def test_what_has_no_trace_format_is_refused_before_anything_runs(tmp_path: Path, algorithm: str) -> None:
    command = Command(tmp_path)

    code, said = await command.run(algorithm)

    assert code == 2
    name = algorithm.partition(":")[0]
    assert f"{name} has no trace format; record self-consistency, chain-of-thought or rebase" in said
    assert command.files == set()


# --- the recordings that the project ships


def shipped(kind: type[Any]) -> list[Any]:
    return [each for each in read_records([TRACES]) if isinstance(each, kind) and each.dataset == "word-problems"]


async def test_the_shipped_recordings_are_large_enough_and_say_what_their_texts_say() -> None:
    votes, chains, trees = shipped(SamplesRecord), shipped(ProbesRecord), shipped(StepsRecord)
    assert len(votes) >= 100
    assert all(len(vote.samples) >= 16 for vote in votes)
    assert len(chains) >= 50
    assert len(trees) >= 10
    gold = {question.id: question.gold for question in read_questions(WORD_PROBLEMS)}
    for vote in votes:
        for sample in vote.samples:
            answer = extract(sample.text or "", AnswerType.NUMBER)
            key = None if answer is None else canonical(answer, AnswerType.NUMBER).key
            assert key == (gold[vote.question_id] if sample.answer == "=gold" else sample.answer)


async def test_the_shipped_recordings_answer_votes_chains_and_trees() -> None:
    vote, chain, tree = shipped(SamplesRecord)[0], shipped(ProbesRecord)[0], shipped(StepsRecord)[0]
    async with running_stack(*FAST, traces=(TRACES,)) as stack:
        for algorithm, record_of_it, kind in (
            ("self-consistency:max_samples=16", vote, "samples"),
            ("chain-of-thought:answer_tokens=0", chain, "probes"),
            ("rebase:width=4,step_tokens=64", tree, "steps"),
        ):
            marker = f"[[trace:word-problems/{record_of_it.question_id}#{kind}]]"
            query = pb.Query(
                chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=marker)]),
                answer_type="number",
                algorithm=pb.Algorithm(type_string=algorithm),
                policy=pb.Policy(rule="even"),
                sampling=pb.SamplingParameters(max_tokens=300),
            )
            outcome = outcome_of(await stack.run(query))
            assert outcome.answer
            if isinstance(record_of_it, ProbesRecord):
                assert outcome.text == record_of_it.text
