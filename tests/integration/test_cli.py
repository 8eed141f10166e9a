"""The command `dynasor` as a person or a script uses it: real processes, a real stack, a replay engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.local.ports import free_port

from fakes.running_stack import SLOW, TRACES, RunningStack, asking, running_stack, until
from fakes.synthetic_votes import recorded

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

KEYS = [
    "query_id", "phase", "answer", "certaindex", "rule", "stop_reason", "samples", "tokens_spent", "tokens_saved",
    "tokens_lost", "latency_seconds", "tokens_probes", "prompt_tokens", "cached_prompt_tokens",
]  # fmt: skip
CLI_SECONDS = 60.0
NOBODY = "127.0.0.1:9"
AS_LONG_AS_IT_TAKES = ("--rule", "even", "--width", "1", "--max-samples", "64")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """Answers in a few tenths of a second."""
    async with running_stack("--ttft-ms", "5", "--time-per-output-token-ms", "1") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slow_stack() -> AsyncIterator[RunningStack]:
    """A sample takes seconds: long enough to be interrupted."""
    async with running_stack(*SLOW) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    status: int
    output: str
    errors: str

    @property
    def fields(self) -> dict[str, Any]:
        """The one JSON object on standard output, and nothing else there."""
        (line,) = self.output.splitlines()
        parsed = json.loads(line)
        assert isinstance(parsed, dict)
        return parsed


async def start(*arguments: str | bytes, address: str = NOBODY, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dynasor_serve.cli", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "DYNASOR_ADDRESS": address, "COLUMNS": "100", **environment},
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process, given: bytes = b"") -> Ended:
    async with asyncio.timeout(CLI_SECONDS):
        output, errors = await process.communicate(given)
    assert process.returncode is not None
    assert b"Traceback" not in errors, errors.decode()
    return Ended(process.returncode, output.decode(), errors.decode())


async def dynasor(*arguments: str | bytes, on: RunningStack | None = None, given: bytes = b"") -> Ended:
    address = on.local.gateway if on else NOBODY
    return await ended(await start(*arguments, address=address), given)


def question(name: str = "q20") -> str:
    return recorded(name).marker


# --- run ---


async def test_run_prints_one_json_object_with_the_promised_keys(stack: RunningStack) -> None:
    arguments = ("--algorithm", "self-consistency", "--max-samples", "16", "--answer-type", "number", "--json")
    run = await dynasor("run", question("q00"), *arguments, on=stack)
    assert run.status == ExitCode.ANSWERED, run.errors
    fields = run.fields
    assert list(fields) == KEYS
    assert (fields["phase"], fields["answer"], fields["stop_reason"]) == ("succeeded", "3", "stop-certain")
    outcome = (await stack.get(fields["query_id"])).outcome
    ledger = outcome.ledger
    assert [fields[key] for key in KEYS[6:]] == [
        outcome.samples, ledger.tokens_spent, ledger.tokens_saved_estimate, ledger.tokens_lost, outcome.latency_seconds,
        ledger.tokens_probes, ledger.prompt_tokens, ledger.cached_prompt_tokens,
    ]  # fmt: skip
    assert fields["rule"].startswith("beta-posterior")
    assert "saved" not in run.errors


async def test_run_tells_people_the_answer_and_why_it_stopped(stack: RunningStack) -> None:
    run = await dynasor("run", question("q00"), "--answer-type", "number", on=stack)
    answer, why = run.output.splitlines()
    assert answer == "3"
    assert why.startswith("stopped early, certain: ")
    assert "(estimate:" in why
    assert "certaindex" in run.errors, "no progress was shown"


async def test_quiet_prints_the_answer_alone(stack: RunningStack) -> None:
    run = await dynasor("run", "-", "-q", "--answer-type", "number", on=stack, given=question("q00").encode())
    assert (run.output, run.errors, run.status) == ("3\n", "", ExitCode.ANSWERED)


async def test_a_query_that_fails_exits_1_and_says_why(stack: RunningStack) -> None:
    run = await dynasor("run", "a question that nobody recorded", "--json", on=stack)
    assert run.status == ExitCode.FAILED
    assert list(run.fields) == [*KEYS, "error"]
    assert run.fields["phase"] == "failed"
    assert "No recorded trace" in run.fields["error"]["message"]


REFUSED = {
    "rule": (["--rule", "nope"], "INVALID_RULE: rule: there is no rule 'nope'; known rules: even"),
    "parameter": (["--rule", "static-threshold:thres=1"], "INVALID_RULE: rule.thres: .*did you mean 'threshold'"),
    "model": (["--model", "nope"], "UNKNOWN_MODEL: no pool serves the model 'nope'; served are: replay-model"),
    "answer type": (["--answer-type", "colour"], "INVALID_QUERY: answer_type: is 'colour'; give one of"),
    "algorithm": (["--algorithm", "luck"], "INVALID_QUERY: algorithm: there is none called 'luck'; known are"),
    "samples": (["--max-samples", "0"], "INVALID_QUERY: .*max_samples: 0 is not allowed; .* at least 1 and at most"),
    "expired deadline": (["--deadline", "-1"], "INVALID_QUERY: deadline: is -1 s, which has passed"),
    "tokens over the context": (["--max-tokens", "9999999"], "INVALID_QUERY: sampling.max_tokens: is 9999999"),
    "temperature": (["--temperature", "9"], "INVALID_QUERY: sampling.temperature: is 9; give a number from 0 to 2"),
    "label": (["--label", "x"], "the label 'x' is not KEY=VALUE"),
    "class": (["--class", "royal"], "royal"),
    "unknown option": (["--sampels", "3"], "--sampels"),
}  # fmt: skip


#: Runs many commands in one process: most of a command's time is its start.
MANY = """
import contextlib, io, json, sys
from dynasor_serve.cli.__main__ import main
for arguments in json.load(sys.stdin):
    sys.argv = ["dynasor", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    print(json.dumps([status, output.getvalue(), errors.getvalue()]))
"""


async def test_bad_input_is_one_clear_sentence_and_exit_2(stack: RunningStack) -> None:
    before = await _ids(stack)
    commands = json.dumps([["run", question(), *arguments] for arguments, _ in REFUSED.values()])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MANY, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "DYNASOR_ADDRESS": stack.local.gateway},
    )  # fmt: skip
    runs = [Ended(*json.loads(line)) for line in (await ended(process, commands.encode())).output.splitlines()]
    for (name, (_, sentence)), run in zip(REFUSED.items(), runs, strict=True):
        assert run.status == ExitCode.BAD_INPUT, (name, run)
        assert run.output == "", name
        assert_matches(sentence, run.errors)
    assert await _ids(stack) == before, "a refused query was accepted"


async def test_a_refused_query_is_still_one_json_object(stack: RunningStack) -> None:
    run = await dynasor("run", question(), "--rule", "nope", "--json", on=stack)
    assert run.status == ExitCode.BAD_INPUT
    assert list(run.fields) == [*KEYS, "error"]
    assert (run.fields["phase"], run.fields["query_id"]) == ("rejected", "")
    assert run.fields["error"]["reason"] == "INVALID_RULE"


@pytest.mark.parametrize(
    ("argument", "given", "sentence"),
    [
        (b"caf\xe9", b"", "argument 2 .* is not valid UTF-8"),
        ("-", b"caf\xe9", "standard input is not valid UTF-8"),
        (" ", b"", "the question is empty"),
        ("-", b"\n", "the question is empty"),
    ],
)
async def test_what_is_no_question_never_leaves(argument: str | bytes, given: bytes, sentence: str) -> None:
    run = await dynasor("run", argument, given=given)
    assert run.status == ExitCode.BAD_INPUT
    assert_matches(sentence, run.errors)


async def test_nobody_there_exits_3(tmp_path: Path) -> None:
    run = await dynasor("run", "question", "--json")
    assert run.status == ExitCode.UNREACHABLE
    assert run.fields["error"]["reason"] == "UNREACHABLE"
    assert_matches("no Dynasor gateway answers at 127.0.0.1:9 .*dynasor up", run.errors)


# --- interruptions ---


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
async def test_an_interrupted_run_cancels_its_query(
    slow_stack: RunningStack, number: signal.Signals, status: ExitCode
) -> None:
    known = await _ids(slow_stack)
    process = await start("run", question(), *AS_LONG_AS_IT_TAKES, "--json", address=slow_stack.local.gateway)

    async def calls_run() -> bool:
        return await slow_stack.calls_in_engine() > 0

    await until(calls_run, what="a call in the engine")
    process.send_signal(number)
    run = await ended(process)
    assert run.status == status
    assert run.fields["phase"] == "cancelled"
    assert run.fields["stop_reason"] == "cancelled"
    (query_id,) = await _ids(slow_stack) - known
    assert run.fields["query_id"] == query_id
    assert (await slow_stack.get(query_id)).phase == pb.QUERY_PHASE_CANCELLED

    async def engine_is_idle() -> bool:
        return await slow_stack.calls_in_engine() == 0

    await until(engine_is_idle, within_seconds=5, what="the end of the calls in the engine")


@pytest.mark.slow
async def test_a_run_outlives_the_gateway(stack: RunningStack) -> None:
    arguments = ("--rule", "even", "--width", "1", "--max-samples", "40", "--json")
    process = await start("run", question(), *arguments, address=stack.local.gateway)
    known = await _ids(stack)

    async def is_accepted() -> bool:
        return bool(await _ids(stack) - known)

    await until(is_accepted, what="the query's acceptance")
    stack.kill("gateway")
    run = await ended(process)
    assert run.status == ExitCode.ANSWERED, run.errors
    assert run.fields["samples"] == 40


# --- queries by id ---


async def test_submit_get_list_and_watch(stack: RunningStack) -> None:
    submitted = await dynasor("submit", question("q01"), "--answer-type", "number", "--tenant", "cli-test", on=stack)
    query_id = submitted.output.strip()
    watched = await dynasor("watch", query_id, "--json", on=stack)
    events = [json.loads(line) for line in watched.output.splitlines()]
    assert [event["sequence"] for event in events] == list(range(len(events)))
    assert events[-1]["finished"]["phase"] == "succeeded"
    got = await dynasor("get", query_id, "--json", on=stack)
    assert list(got.fields) == KEYS
    assert (got.fields["answer"], got.status) == ("10", ExitCode.ANSWERED)
    described = await dynasor("get", query_id, on=stack)
    assert "votes       10 ×" in described.output
    listed = await dynasor("list", "--tenant", "cli-test", on=stack)
    assert query_id in listed.output
    assert (await dynasor("list", "--tenant", "cli-test", "--json", on=stack)).fields == got.fields
    again = await dynasor("cancel", query_id, "--json", on=stack)
    assert again.fields == {"query_id": query_id, "phase": "succeeded"}


async def test_cancel_ends_a_running_query(slow_stack: RunningStack) -> None:
    query_id = await slow_stack.submit(asking("q20", width=1))
    await slow_stack.until_seen(query_id, "claimed")
    assert (await dynasor("cancel", query_id, on=slow_stack)).status == ExitCode.ANSWERED
    events = await slow_stack.watch(query_id)
    assert events[-1].finished.phase == pb.QUERY_PHASE_CANCELLED


@pytest.mark.parametrize("command", ["get", "watch", "cancel"])
async def test_an_unknown_id_is_bad_input(stack: RunningStack, command: str) -> None:
    answer = await dynasor(command, "nope", on=stack)
    assert answer.status == ExitCode.BAD_INPUT
    assert_matches("UNKNOWN_QUERY: no query 'nope' is known", answer.errors)


async def test_rules_and_version_need_no_server() -> None:
    rules = await dynasor("rules")
    assert "beta-posterior:confidence=0.95" in rules.output
    described = json.loads((await dynasor("rules", "--json")).output)
    assert {"even", "majority-locked"} <= {rule["name"] for rule in described}
    assert (await dynasor("version")).output.startswith("dynasor ")


# --- up and demo ---


@pytest.mark.slow
async def test_up_serves_and_keeps_what_it_accepted(tmp_path: Path) -> None:
    port = free_port()
    arguments = [
        "up", "--engine", "replay", "--port", str(port), "--data", str(tmp_path / "state"),
        *(part for path in TRACES for part in ("--traces", str(path))),
    ]  # fmt: skip
    slow = {"DYNASOR_REPLAY_TIME_PER_OUTPUT_TOKEN_MS": "10"}
    first = await start(*arguments, **slow)
    await _until_it_serves(first)
    address = f"127.0.0.1:{port}"
    submit = ("submit", question("q00"), "--answer-type", "number", "--width", "1")
    accepted = await ended(await start(*submit, address=address))
    other_port = [*arguments[:4], str(free_port()), *arguments[5:]]
    assert_matches("another `dynasor up` .process", (await ended(await start(*other_port))).errors)
    other_data = [*arguments[:6], str(tmp_path / "other"), *arguments[7:]]
    assert_matches(f"cannot listen on {address}", (await ended(await start(*other_data))).errors)
    first.terminate()
    assert (await ended(first)).status == ExitCode.ANSWERED
    second = await start(*arguments)
    await _until_it_serves(second)
    watched = await ended(await start("watch", accepted.output.strip(), "--json", address=address))
    second.send_signal(signal.SIGINT)
    assert (await ended(second)).status == ExitCode.ANSWERED
    assert json.loads(watched.output.splitlines()[-1])["finished"]["outcome"]["answer"] == "3"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine", "teapot"], "--engine is 'teapot'; give vllm, replay, or a URL"),
        (["--engine", "replay", "--ordering", "luck"], "no ordering is called 'luck'; known are fcfs, gang-shortest"),
        (["--engine", "replay", "--traces", "nowhere.jsonl"], "no recorded answers at nowhere.jsonl"),
        (["--engine", "vllm", "--traces", "x"], "--traces is for --engine replay"),
    ],
)
async def test_up_refuses_what_it_cannot_start(arguments: Sequence[str], sentence: str, tmp_path: Path) -> None:
    refused = await dynasor("up", "--data", str(tmp_path), *arguments)
    assert refused.status == ExitCode.BAD_INPUT
    assert_matches(sentence, refused.errors)


@pytest.mark.slow
async def test_the_demonstration_answers_compares_and_reports(tmp_path: Path) -> None:
    # A proxy for the web must not stand between the parts.
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://{NOBODY}")
    demo = await ended(await start("demo", "--engine", "replay", "--json", str(tmp_path / "report.json"), **proxy))
    assert demo.status == ExitCode.ANSWERED, demo.errors
    report = json.loads((tmp_path / "report.json").read_text())
    early, fixed = report["early"], report["fixed"]
    assert early["questions"] == fixed["questions"] == len(early["queries"])
    assert fixed["samples"] == report["max_samples"] * fixed["questions"]
    assert all(query["tokens_spent"] <= fixed["tokens"] for query in early["queries"])
    assert report["saving"]["estimate"] == pytest.approx(1 - early["tokens"] / fixed["tokens"])
    assert report["saving"]["estimate"] > 0.05
    assert report["accuracy_difference"]["estimate"] >= -0.05
    assert "Tokens saved, measured against the fixed pass" in demo.output
    assert demo.output.count(": ANSWER ") == early["questions"]


@pytest.mark.slow
async def test_an_interrupted_demonstration_leaves_nothing_running(tmp_path: Path) -> None:
    process = await start("demo", "--engine", "replay", TMPDIR=str(tmp_path))
    assert process.stdout is not None
    async with asyncio.timeout(CLI_SECONDS):
        while b"says" not in await process.stdout.readline():
            pass
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(15):
        assert (await ended(process)).status == ExitCode.INTERRUPTED
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert _processes_that_mention(str(tmp_path)) == []


async def _until_it_serves(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(CLI_SECONDS):
        while b"Stop:" not in (line := await process.stdout.readline()):
            assert line, (await process.communicate())[1].decode()


async def _ids(stack: RunningStack) -> set[str]:
    response = await stack.stub.List(pb.ListRequest(page_size=200), timeout=CLI_SECONDS)
    return {state.query_id for state in response.states}


def assert_matches(pattern: str, text: str) -> None:
    __tracebackhide__ = True
    words = " ".join(text.replace("│", " ").split())
    assert re.search(pattern, words), f"{pattern!r} is not in {words!r}"


def _processes_that_mention(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in entry.read_bytes() and entry.parent.name != str(os.getpid()):
                found.append((entry.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
