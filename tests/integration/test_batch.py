"""`dynasor batch` as a person uses it: real processes, thousands of lines, and whatever breaks in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.exit_codes import ExitCode

from fakes.running_stack import RunningStack, asking, running_stack, sample, until
from fakes.synthetic_votes import recorded, recorded_questions

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

CLI_SECONDS = 150.0
#: A query is one call of a few milliseconds.
QUICK = ("--answer-type", "number", "--max-samples", "1", "--rule", "even")
#: Questions whose first sample has an answer.
NAMES = sorted(name for name, question in recorded_questions().items() if question.answers[0] is not None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """As fast as the processes are."""
    async with running_stack("--ttft-ms", "1", "--time-per-output-token-ms", "0.01") as running:
        yield running


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    status: int
    output: str
    errors: str

    @property
    def summary(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        (line,) = self.output.splitlines()
        parsed = json.loads(line)
        assert isinstance(parsed, dict)
        return parsed


@dataclass(frozen=True, slots=True)
class Job:
    """A batch of one test, billed to a tenant of its own so that its queries can be counted."""

    stack: RunningStack
    directory: Path
    tenant: str

    @property
    def source(self) -> Path:
        return self.directory / "in.jsonl"

    @property
    def out(self) -> Path:
        return self.directory / "out.jsonl"

    @property
    def partial(self) -> Path:
        return self.directory / "out.jsonl.partial"

    def write(self, lines: Iterable[bytes]) -> None:
        self.source.write_bytes(b"".join(line + b"\n" for line in lines))

    async def start(self, *arguments: str, stderr: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dynasor_serve.cli", "batch", str(self.source), str(self.out), "--json"),
            *("--tenant", self.tenant, *QUICK, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "DYNASOR_ADDRESS": self.stack.local.gateway},
        )

    async def run(self, *arguments: str) -> Ended:
        return await ended(await self.start(*arguments))

    async def started_until(self, results: int, *arguments: str) -> asyncio.subprocess.Process:
        """A run that has written so many results, and is not done."""
        process = await self.start(*arguments)

        async def has_written() -> bool:
            assert process.returncode is None, (await process.communicate())[1].decode()
            return self.partial.exists() and len(self.partial.read_bytes().splitlines()) >= results

        await until(has_written, within_seconds=CLI_SECONDS, what=f"{results} results")
        return process

    def results(self) -> dict[str, dict[str, Any]]:
        """custom_id -> line of the whole output."""
        lines = [json.loads(line) for line in self.out.read_bytes().splitlines()]
        found = {line["custom_id"]: line for line in lines}
        assert len(found) == len(lines), [name for name, n in Counter(x["custom_id"] for x in lines).items() if n > 1]
        return found

    async def queries(self) -> list[pb.QueryState]:
        """All queries that the tenant has ever asked."""
        states: list[pb.QueryState] = []
        token = ""
        while True:
            request = pb.ListRequest(tenant=self.tenant, page_size=200, page_token=token)
            page = await self.stack.stub.List(request, timeout=CLI_SECONDS, wait_for_ready=True)
            states += page.states
            token = page.next_page_token
            if not token:
                return states

    async def assert_each_was_asked_once(self, answered: int) -> None:
        """As many queries as answered lines, each the one that its line says."""
        asked = {state.query_id for state in await self.queries()}
        said = {line["response"]["request_id"] for line in self.results().values() if line["response"]}
        assert len(said) == answered
        assert asked == said, f"{len(asked)} queries for {len(said)} answers"


@pytest.fixture
def job(stack: RunningStack, tmp_path: Path, request: pytest.FixtureRequest) -> Job:
    return Job(stack, tmp_path, request.node.name[:200])


async def ended(process: asyncio.subprocess.Process) -> Ended:
    async with asyncio.timeout(CLI_SECONDS):
        output, errors = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in (errors or b""), errors.decode()
    return Ended(process.returncode, output.decode(), (errors or b"").decode())


def line(number: int, **dynasor: Any) -> bytes:
    question = recorded(NAMES[number % len(NAMES)])
    body = {"messages": [{"role": "user", "content": question.marker}], "dynasor": {"gold": question.gold} | dynasor}
    fields = {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(fields).encode()


def lines(count: int, **dynasor: Any) -> list[bytes]:
    return [line(number, **dynasor) for number in range(count)]


# --- thousands ---


@pytest.mark.slow
async def test_two_thousand_lines_are_answered_each_once(job: Job) -> None:
    given = lines(2000)
    given[500] = b"not JSON"
    given[700] = line(3)
    given[900] = b'{"method": "POST"}'
    given[1100] = line(1100, colour="red")
    given[1300] = line(1300, rule="no-such-rule")
    given[1500] = b"\xff\xfe"
    job.write(given)
    before = sample(await job.stack.metrics_of("gateway"), "dynasor_gateway_watchers")

    run = await job.run()

    assert run.status == ExitCode.FAILED, run.errors
    results = job.results()
    errors = {name: found["error"] for name, found in results.items() if found["error"]}
    assert {name: error["code"] for name, error in errors.items()} == {
        "line-501": "MALFORMED_LINE",
        "line-701": "DUPLICATE_CUSTOM_ID",
        "line-901": "MISSING_CUSTOM_ID",
        "q1100": "UNKNOWN_FIELD",
        "q1300": "INVALID_RULE",
        "line-1501": "MALFORMED_LINE",
    }
    assert "line 1101: body.dynasor.colour" in errors["q1100"]["message"]
    assert len(results) == 2000
    await job.assert_each_was_asked_once(1994)
    for name in ("q0", "q1999"):
        question = recorded(NAMES[int(name[1:]) % len(NAMES)])
        program = results[name]["response"]["body"]["dynasor"]
        assert (program["answer"], program["samples"]) == (question.answers[0], 1)
        assert program["correct"] is (question.answers[0] == question.gold)
    summary = run.summary
    assert (summary["lines"], summary["answered"], summary["errors"]) == (2000, 1994, 6)
    assert summary["output"] == str(job.out)
    programs = [found["response"]["body"]["dynasor"] for found in results.values() if found["response"]]
    assert summary["tokens_spent"] == sum(program["tokens_spent"] for program in programs)
    assert summary["accuracy"] == pytest.approx(sum(program["correct"] for program in programs) / 1994, abs=1e-6)
    assert "of 2,000 lines" in run.errors, "no progress was shown"
    assert {path.name for path in job.directory.iterdir()} == {"in.jsonl", "out.jsonl"}
    states = await job.queries()
    assert {state.query.query_class for state in states} == {pb.QUERY_CLASS_BATCH}
    assert sample(await job.stack.metrics_of("gateway"), "dynasor_gateway_watchers") == before


@pytest.mark.slow
@pytest.mark.fault
async def test_a_killed_command_goes_on_and_asks_nothing_twice(job: Job) -> None:
    job.write(lines(700))
    for results in (100, 300, 500):
        process = await job.started_until(results)
        process.kill()
        await process.communicate()
        assert not job.out.exists(), "a part of the results looks like all of them"
    kept = job.partial.read_bytes()
    whole_lines = kept[: kept.rfind(b"\n") + 1]
    found = whole_lines.count(b"\n")

    run = await job.run()

    assert run.status == ExitCode.ANSWERED, run.errors
    assert job.out.read_bytes().startswith(whole_lines), "a finished line was asked or written again"
    assert len(job.results()) == 700
    await job.assert_each_was_asked_once(700)
    summary = run.summary
    assert summary["found_from_earlier_run"] == found >= 500
    assert summary["judged"] == 700, "results of the earlier runs count as well"
    assert f"{found:,} results of an earlier run found" in run.errors


@pytest.mark.slow
@pytest.mark.fault
async def test_a_killed_gateway_is_waited_for_and_nothing_is_repeated(job: Job) -> None:
    job.write(lines(500))
    process = await job.started_until(100)
    job.stack.kill("gateway")

    async def is_away() -> bool:
        assert process.stderr is not None
        return b"is away" in await process.stderr.readline()

    await until(is_away, what="a word that the gateway is away")
    run = await ended(process)

    assert run.status == ExitCode.ANSWERED, run.errors
    assert "the gateway is back" in run.errors
    assert len(job.results()) == 500
    await job.assert_each_was_asked_once(500)


# --- stopping and going on ---


@pytest.mark.slow
async def test_ctrl_c_leaves_what_was_asked_running_and_the_same_command_goes_on(job: Job) -> None:
    job.write(lines(120, algorithm="self-consistency:max_samples=16,width=1"))
    # Four at a time take long enough for two more commands to start.
    process = await job.started_until(5, "--in-flight", "4")
    second = await job.run("--in-flight", "4")
    assert second.status == ExitCode.BAD_INPUT
    assert "another `dynasor batch` is writing out.jsonl" in second.errors
    process.send_signal(signal.SIGINT)
    first = await ended(process)

    assert first.status == ExitCode.INTERRUPTED
    assert "The same command goes on from here" in first.errors
    assert first.summary["output"] is None
    assert not job.out.exists()
    asked = await job.queries()
    assert len(asked) < 120
    assert all(state.phase != pb.QUERY_PHASE_CANCELLED for state in asked)

    run = await job.run()
    assert run.status == ExitCode.ANSWERED, run.errors
    await job.assert_each_was_asked_once(120)


async def test_an_edited_line_is_asked_again_and_one_that_is_gone_left_out(job: Job) -> None:
    job.write(lines(60))
    process = await job.started_until(20, "--in-flight", "1")
    process.kill()
    await process.communicate()
    edited = [line(0, rule="majority-locked"), *lines(60)[2:], line(60)]
    job.write(reversed(edited))

    other = await job.run("--max-tokens", "7")
    assert other.status == ExitCode.BAD_INPUT
    assert "max_tokens was 'not given' and is 7" in other.errors

    run = await job.run()
    assert run.status == ExitCode.ANSWERED, run.errors
    assert "1 line changed since the answer came, asked again: q0" in run.errors
    assert "1 result of lines that are not in in.jsonl any more, left out" in run.errors
    results = job.results()
    assert set(results) == {f"q{number}" for number in range(61)} - {"q1"}
    assert results["q0"]["response"]["body"]["dynasor"]["rule"] == "majority-locked"
    assert run.summary["found_from_earlier_run"] >= 18


async def test_errors_that_may_have_passed_are_asked_again_of_whole_results(job: Job) -> None:
    """A cancelled query is such an error."""
    job.write([*lines(3), line(3, rule="no-such-rule"), line(4, algorithm="self-consistency:max_samples=200,width=1")])
    process = await job.start()

    async def cancelled() -> bool:
        for state in await job.queries():
            if state.query.algorithm.self_consistency.max_samples == 200:
                return await job.stack.cancel(state.query_id, "by the test") in {
                    pb.QUERY_PHASE_RUNNING,
                    pb.QUERY_PHASE_CANCELLED,
                }
        return False

    await until(cancelled, what="a query to cancel")
    first = await ended(process)
    assert first.status == ExitCode.FAILED
    assert first.summary["errors_retryable"] == 1
    before = job.results()
    assert before["q4"]["error"]["code"] == "CANCELLED"
    assert (await job.run()).status == ExitCode.BAD_INPUT, "whole results were to be replaced"

    again = await job.run("--retry-errors")

    assert again.status == ExitCode.FAILED, "a wrong rule does not pass"
    after = job.results()
    assert after["q4"]["error"] is None
    assert after["q4"]["response"]["body"]["dynasor"]["samples"] == 200
    assert {name: found for name, found in after.items() if name != "q4"} == {
        name: found for name, found in before.items() if name != "q4"
    }
    assert len(await job.queries()) == 5


async def test_results_that_are_all_there_need_no_gateway(job: Job) -> None:
    job.write(lines(60))
    process = await job.started_until(10, "--in-flight", "1")
    process.kill()
    await process.communicate()
    nowhere = ("--address", "127.0.0.1:9")

    away = await job.run(*nowhere)
    assert away.status == ExitCode.UNREACHABLE
    assert "The same command goes on from here" in away.errors
    assert away.summary["error"]["reason"] == "UNREACHABLE"

    job.write(lines(10))
    assert (await job.run(*nowhere)).status == ExitCode.ANSWERED
    assert set(job.results()) == {f"q{number}" for number in range(10)}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--overwrite", "--retry-errors"], "give one of them"),
        (["--deadline", "-1"], "--deadline is -1; give more than 0"),
        (["--max-tokens", str(2**31)], f"--max-tokens is {2**31}"),
        (["--label", "x"], "the label 'x' is not KEY=VALUE"),
    ],
)
async def test_a_wrong_command_line_begins_nothing(job: Job, arguments: list[str], sentence: str) -> None:
    job.write(lines(1))
    run = await job.run(*arguments)

    assert run.status == ExitCode.BAD_INPUT
    assert sentence in run.errors
    assert [path.name for path in job.directory.iterdir()] == ["in.jsonl"]


async def test_in_and_out_are_two_files(job: Job) -> None:
    assert "is no regular file" in (await job.run()).errors
    job.write(lines(1))
    job.out.symlink_to(job.source)

    assert "are the same file" in (await job.run()).errors
    assert job.source.read_bytes() == lines(1)[0] + b"\n"


async def test_a_terminal_shows_a_bar(job: Job) -> None:
    job.write(lines(20))
    ours, theirs = pty.openpty()
    process = await job.start(stderr=theirs)
    os.close(theirs)
    shown = b""

    def drain() -> None:
        nonlocal shown
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 4096):
                shown += part

    drained = asyncio.to_thread(drain)
    run, _ = await asyncio.gather(ended(process), drained)
    os.close(ours)

    assert run.status == ExitCode.ANSWERED
    assert "20/20" in shown.decode()
    assert "tokens spent" in shown.decode()


# --- the rpc ---


async def test_queries_of_a_megabyte_pass_through_one_stream(job: Job) -> None:
    padding = "x " * 490_000

    async def requests() -> AsyncIterator[pb.RunBatchRequest]:
        for number in range(60):
            chat = pb.Chat(messages=[pb.ChatMessage(role="user", content=padding + recorded(NAMES[number % 4]).marker)])
            query = asking(NAMES[number % 4], samples=1, chat=chat, tenant=job.tenant)
            yield pb.RunBatchRequest(key=str(number), query=query)

    answered = {}
    async for answer in job.stack.stub.RunBatch(requests(), timeout=CLI_SECONDS):
        answered[answer.key] = answer.state.outcome.answer

    assert answered == {str(number): recorded(NAMES[number % 4]).answers[0] for number in range(60)}


async def test_a_caller_that_hangs_up_leaves_its_queries_running(job: Job) -> None:
    waiting = asyncio.Event()

    async def requests() -> AsyncIterator[pb.RunBatchRequest]:
        for number in range(30):
            query = asking(NAMES[number % len(NAMES)], samples=16, width=1, tenant=job.tenant)
            query.query_class = pb.QUERY_CLASS_BATCH
            yield pb.RunBatchRequest(key=str(number), query=query)
        await waiting.wait()

    call = job.stack.stub.RunBatch(requests())
    assert (await anext(aiter(call))).state.phase == pb.QUERY_PHASE_SUCCEEDED

    async def all_came() -> bool:
        return len(await job.queries()) == 30

    await until(all_came, what="thirty queries")
    call.cancel()

    async def nobody_watches() -> bool:
        return sample(await job.stack.metrics_of("gateway"), "dynasor_gateway_watchers") == 0

    async def all_succeeded() -> bool:
        return all(state.phase == pb.QUERY_PHASE_SUCCEEDED for state in await job.queries())

    await until(nobody_watches, within_seconds=5, what="the end of the watching")
    await until(all_succeeded, what="thirty answers")


async def test_unknown_fields_of_one_entry_are_its_own_trouble(job: Job) -> None:
    wrong = pb.RunBatchRequest(key="wrong", query=asking("q00", samples=1, tenant=job.tenant))
    wrong.query.MergeFromString(b"\x9a\x3f\x01x")  # field 1011, of a newer client
    right = pb.RunBatchRequest(key="right", query=asking("q00", samples=1, tenant=job.tenant))

    answers = {each.key: each async for each in job.stack.stub.RunBatch(iter([wrong, right]), timeout=CLI_SECONDS)}

    assert answers["wrong"].refused.reason == "UNKNOWN_FIELD"
    assert not answers["wrong"].refused.retryable
    assert answers["right"].state.phase == pb.QUERY_PHASE_SUCCEEDED
