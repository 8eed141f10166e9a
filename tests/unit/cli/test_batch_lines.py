"""Lines of a batch: what they ask, what is refused by name, and that no hostile line gets further than that."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.batching import input_file
from dynasor_serve.cli.batching.input_file import Identity, InputLine, LineNames, read_lines
from dynasor_serve.cli.batching.line_shape import BadLine, LineProblem
from dynasor_serve.cli.batching.lines import custom_id_of, question_of
from dynasor_serve.cli.failures import CommandFailed

DEFAULT = pb.Query(
    system_prompt="Be brief.",
    sampling=pb.SamplingParameters(temperature=0.5, max_tokens=100, stop=["END"]),
    answer_type="number",
    model="small",
    algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=4)),
    policy=pb.Policy(rule="even", chain_rule="trial-confidence"),
    query_class=pb.QUERY_CLASS_BATCH,
    probe=pb.Probe(interval=64),
    labels={"run": "7"},
)
CHAT = [{"role": "user", "content": "What is it?"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
WORDS = (
    "custom_id method url body model messages prompt role content type text temperature top_p top_k max_tokens stop "
    "seed dynasor algorithm rule labels probe interval marks reward gold deadline_seconds budget_tokens n"
)
KEYS = st.sampled_from(WORDS.split())


def line(body: dict[str, Any], url: str = "/v1/chat/completions", **fields: Any) -> bytes:
    return json.dumps({"custom_id": "q1", "method": "POST", "url": url, "body": body} | fields).encode()


def chat(**fields: Any) -> bytes:
    return line({"messages": CHAT} | fields)


def refused(content: bytes) -> tuple[LineProblem, str]:
    with pytest.raises(BadLine) as raised:
        question_of(content, pb.Query())
    return raised.value.problem, str(raised.value)


# --- what a line asks ---


def test_a_line_without_wishes_asks_as_the_command_line_says() -> None:
    question = question_of(chat(), DEFAULT)

    expected = pb.Query()
    expected.CopyFrom(DEFAULT)
    expected.chat.messages.add(role="user", content="What is it?")
    assert question.query == expected
    assert (question.is_chat, question.answer_type, question.gold) == (True, "number", None)


def test_a_line_says_all_that_a_query_may_hold() -> None:
    content = line(
        {
            "model": "large",
            "prompt": "What is it?",
            "temperature": 1,
            "top_p": 0.9,
            "top_k": 0,
            "max_completion_tokens": 7,
            "stop": "\n",
            "seed": -(2**63),
            "thinking_token_budget": 5,
            "dynasor": {
                "algorithm": "rebase:width=16",
                "rule": "majority-locked",
                "chain_rule": "",
                "answer_type": "math",
                "budget_tokens": 2**40,
                "deadline_seconds": 1.5,
                "probe": {"prompt": "deer", "marks": True, "max_tokens": 3},
                "reward": {"source": "verifier", "verifier": "game24", "task": "1 2 3 4"},
                "labels": {"set": "a", "run": "8"},
                "gold": "x^2",
            },
        },
        url="/v1/completions",
    )
    question = question_of(content, DEFAULT)

    expected = pb.Query(
        prompt="What is it?",
        sampling=pb.SamplingParameters(
            temperature=1.0,
            top_p=0.9,
            top_k=0,
            max_tokens=7,
            stop=["\n"],
            seed=-(2**63),
            thinking_token_budget=5,
        ),
        answer_type="math",
        model="large",
        algorithm=pb.Algorithm(type_string="rebase:width=16"),
        policy=pb.Policy(rule="majority-locked"),
        budget=pb.Budget(max_tokens=2**40),
        query_class=pb.QUERY_CLASS_BATCH,
        probe=pb.Probe(prompt="deer", marks=True, max_tokens=3),
        reward=pb.Reward(source="verifier", verifier="game24", task="1 2 3 4"),
        labels={"set": "a", "run": "8"},
    )
    expected.deadline.FromMilliseconds(1500)
    assert question.query == expected
    assert (question.is_chat, question.answer_type, question.gold) == (False, "math", "x^2")


def test_a_conversation_with_instructions_of_its_own_gets_no_others() -> None:
    messages = [{"role": "system", "content": "Be long."}, *CHAT]
    query = question_of(line({"messages": messages}), DEFAULT).query

    assert query.system_prompt == ""
    assert [turn.content for turn in query.chat.messages] == ["Be long.", "What is it?"]


def test_text_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
    (turn,) = question_of(line({"messages": [{"role": "user", "content": parts}]}), DEFAULT).query.chat.messages

    assert turn.content == "What is it?"


@pytest.mark.parametrize(("gold", "text"), [("1/2", "1/2"), (42, "42"), (0.5, "0.5"), (None, None)])
def test_a_gold_answer_may_be_a_number(gold: object, text: str | None) -> None:
    assert question_of(chat(dynasor={"gold": gold}), DEFAULT).gold == text


@pytest.mark.parametrize("fields", [{"max_tokens": 9}, {"max_tokens": 9, "max_completion_tokens": 9}])
def test_both_names_of_the_token_limit_mean_the_same(fields: dict[str, int]) -> None:
    assert question_of(chat(**fields), DEFAULT).query.sampling.max_tokens == 9


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "problem", "message"),
    [
        (chat(n=2), "UNKNOWN_FIELD", "body.n: .*self-consistency:max_samples"),
        (chat(stream=False), "UNKNOWN_FIELD", "body.stream: .*dynasor run"),
        (chat(tools=[]), "UNKNOWN_FIELD", "body.tools: .*call no tools"),
        (chat(response_format={}), "UNKNOWN_FIELD", "body.response_format: .*dynasor.answer_type"),
        (chat(temprature=1), "UNKNOWN_FIELD", "body.temprature: .*did you mean 'temperature'"),
        (chat(prompt="x"), "UNKNOWN_FIELD", "body.prompt: .*give \"messages\""),
        (line({"prompt": "x", "messages": CHAT}, "/v1/completions"), "UNKNOWN_FIELD", "body.messages: .*\"prompt\""),
        (chat(dynasor={"budget": 5}), "UNKNOWN_FIELD", "body.dynasor.budget: .*budget_tokens"),
        (chat(dynasor={"policy": {}}), "UNKNOWN_FIELD", "body.dynasor.policy: .*dynasor.rule"),
        (chat(dynasor={"lables": {}}), "UNKNOWN_FIELD", "body.dynasor.lables: .*did you mean 'labels'"),
        (chat(dynasor={"probe": {"every": 3}}), "UNKNOWN_FIELD", "body.dynasor.probe.every: .*known are: prompt, int"),
        (line({"messages": [CHAT[0] | {"name": "x"}]}), "UNKNOWN_FIELD", r"body.messages\[0\].name: .*role, content"),
        (line({"messages": [{"role": "user", "content": [{"type": "text", "txt": "x"}]}]}), "UNKNOWN_FIELD",
         r"content\[0\].txt: .*did you mean 'text'. known are: type, text$"),
        (line({"prompt": "x", "stpo": 1}, "/v1/completions"), "UNKNOWN_FIELD", "body.stpo: .*'stop'. known .*prompt$"),
        (line({"messages": CHAT}, priority=1), "UNKNOWN_FIELD", "priority: .*known are: custom_id, method, url, body"),
        (line({}), "INVALID_FIELD", "body.messages: is missing; give a list"),
        (line({"messages": []}), "INVALID_FIELD", "body.messages: .*length >= 1"),
        (line({}, "/v1/completions"), "INVALID_FIELD", "body.prompt: is missing; give one text"),
        (line({"prompt": ["a", "b"]}, "/v1/completions"), "INVALID_FIELD", "body.prompt: .*one question"),
        (chat().replace(b'"POST"', b'"GET"'), "INVALID_FIELD", "method: .*give \"POST\""),
        (line({}, "/v1/embeddings"), "INVALID_FIELD", "url: .*give \"/v1/chat/completions\""),
        (b'{"custom_id": "q1", "method": "POST", "url": "/v1/completions"}', "INVALID_FIELD", "body: is missing"),
        (chat(max_tokens=1e3), "INVALID_FIELD", "body.max_tokens: expected `int"),
        (chat(max_tokens=2**31), "INVALID_FIELD", "body.max_tokens: expected `int` <= 2147483647"),
        (chat(max_tokens=True), "INVALID_FIELD", "body.max_tokens: expected `int"),
        (chat(max_tokens=1, max_completion_tokens=2), "INVALID_FIELD", "max_completion_tokens is 2 .*one of them"),
        (chat(temperature="hot"), "INVALID_FIELD", "body.temperature: expected `float"),
        (chat(dynasor={"deadline_seconds": 1e300}), "INVALID_FIELD", "body.dynasor.deadline_seconds: expected `float`"),
        (chat(dynasor={"labels": {"a": 1}}), "INVALID_FIELD", "body.dynasor.labels.*: expected `str`"),
        (line({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "INVALID_FIELD", "type: .*text"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_its_name(content: bytes, problem: str, message: str) -> None:
    found, said = refused(content)
    assert found == problem, said
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", LineProblem.MALFORMED_LINE),
        (b"not JSON", LineProblem.MALFORMED_LINE),
        (b"[1]", LineProblem.MALFORMED_LINE),
        (b'{"custom_id": "q1"', LineProblem.MALFORMED_LINE),
        (b'{"custom_id": "q1"} {}', LineProblem.MALFORMED_LINE),
        (b'{"custom_id": "q1", "body": "\xff"}', LineProblem.MALFORMED_LINE),
        (b'{"custom_id": "\\ud800"}', LineProblem.MALFORMED_LINE),
        (b'{"custom_id": "q1", "body": ' + b"[" * 100_000, LineProblem.MALFORMED_LINE),
        (b"{}", LineProblem.MISSING_CUSTOM_ID),
        (b'{"custom_id": 17}', LineProblem.MISSING_CUSTOM_ID),
        (b'{"custom_id": ""}', LineProblem.MISSING_CUSTOM_ID),
        (b'{"custom_id": null}', LineProblem.MISSING_CUSTOM_ID),
    ],
)
def test_a_line_without_a_name_says_why(content: bytes, problem: LineProblem) -> None:
    with pytest.raises(BadLine) as raised:
        custom_id_of(content)

    assert raised.value.problem is problem


@given(st.dictionaries(KEYS | st.text(), JSON | st.dictionaries(KEYS, JSON)), st.sampled_from(["chat/", ""]))
@example({"messages": CHAT, "dynasor": {"gold": 10**400}}, "chat/")
@example({"messages": CHAT, "dynasor": {"gold": 10**4000, "labels": {"": "\0"}}}, "chat/")
@example({"messages": CHAT, "seed": 2**63}, "chat/")
def test_any_body_is_a_query_or_refused(body: dict[str, Any], kind: str) -> None:
    try:
        question = question_of(line(body, f"/v1/{kind}completions"), DEFAULT)
    except BadLine:
        return
    assert question.query.WhichOneof("input")
    assert set(body) <= {"messages", "prompt", "model", "temperature", "top_p", "top_k", "max_tokens", "stop", "seed",
                         "dynasor"}  # fmt: skip


@given(st.binary() | st.text().map(str.encode) | JSON.map(json.dumps).map(str.encode))
def test_any_bytes_are_a_line_or_refused(content: bytes) -> None:
    for read in (custom_id_of, lambda content: question_of(content, DEFAULT)):
        with contextlib.suppress(BadLine):
            read(content)


@given(st.data())
def test_any_change_of_a_line_is_a_query_or_refused(data: st.DataObject) -> None:
    content = bytearray(chat(temperature=0.5, stop=["a"], dynasor={"labels": {"a": "b"}, "gold": 1}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadLine):
        custom_id_of(bytes(content))
        question_of(bytes(content), DEFAULT)


# --- the file ---


def lines_of(path: Path, content: bytes) -> list[InputLine]:
    path.write_bytes(content)
    return list(read_lines(path))


def identities(lines: list[InputLine]) -> tuple[LineNames, list[Identity]]:
    names = LineNames()
    return names, [names.identity(each) for each in lines]


def test_blank_lines_and_the_ways_to_end_one_change_nothing_but_numbers(tmp_path: Path) -> None:
    plain = lines_of(tmp_path / "a", b'{"a": 1}\n{"b": 2}\n')
    odd = lines_of(tmp_path / "b", b'\xef\xbb\xbf{"a": 1}\r\n\n  \r\n {"b": 2} ')

    assert [(each.content, each.digest) for each in odd] == [(each.content, each.digest) for each in plain]
    assert [each.number for each in plain] == [1, 2]
    assert [each.number for each in odd] == [1, 4]


@pytest.mark.parametrize("beginning", [b"", b"\xef\xbb\xbf"])
def test_a_line_that_is_too_long_is_passed_over_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(input_file, "MAX_LINE_BYTES", 1000)
    content = beginning + b"x" * 200_000 + b"\n" + b"y" * 1000 + b"\n" + b"z" * 1001
    long, fitting, last = lines_of(tmp_path / "in", content)

    assert (long.number, long.content, last.content) == (1, None, None)
    assert (fitting.number, fitting.content) == (2, b"y" * 1000)
    _, (identity, _, _) = identities([long, fitting, last])
    assert identity.problem is not None
    assert identity.problem.problem is LineProblem.LINE_TOO_LONG
    (other, *_) = lines_of(tmp_path / "in", content.replace(b"x\n", b"u\n"))
    assert other.digest != long.digest, "an edit far behind the beginning is an edit"


def test_the_second_line_of_a_name_is_told_where_the_first_is(tmp_path: Path) -> None:
    content = b'{"custom_id": "a"}\n{"custom_id": "b"}\n{"custom_id": "a"}\n{"custom_id": "a"}\n'
    names, (first, other, second, third) = identities(lines_of(tmp_path / "in", content))

    assert (first.custom_id, other.custom_id, second.custom_id) == ("a", "b", None)
    assert second.problem is not None
    assert second.problem.problem is LineProblem.DUPLICATE_CUSTOM_ID
    assert "line 1" in str(second.problem)
    assert len({first.key, other.key, second.key, third.key}) == 4
    again = [names.identity(line) for line in read_lines(tmp_path / "in")]
    assert [(each.key, each.custom_id) for each in again] == [
        (each.key, each.custom_id) for each in (first, other, second, third)
    ]


def test_a_line_without_a_name_gets_one_that_no_other_has(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "in", b'x\ny\n{"custom_id": "line-2"}\n')
    names, (first, second, third) = identities(lines)

    assert [names.name(*each) for each in zip(lines, (first, second, third), strict=True)] == [
        "line-1",
        "line-2-unnamed",
        "line-2",
    ]


def test_a_named_line_is_known_by_name_and_content_wherever_it_stands(tmp_path: Path) -> None:
    _, (a, b) = identities(lines_of(tmp_path / "in", b'{"custom_id": "a"}\n{"custom_id": "b"}\n'))
    _, (b_moved, a_edited) = identities(lines_of(tmp_path / "in", b'{"custom_id": "b"}\n{"custom_id": "a", "x": 1}\n'))

    assert b_moved.key == b.key
    assert a_edited.key not in {a.key, b.key}


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"cannot read .*: Is a directory"):
        list(read_lines(tmp_path))
