"""What survives of a batch that breaks off, at every byte, and when its results become whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.cli.batching.input_file import LineKey
from dynasor_serve.cli.batching.result_file import ResultFile, opened
from dynasor_serve.cli.batching.results import Error, Result, ResultId, decoded, encoded, parse_id
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.cli.presentation import Json

OPTIONS: dict[str, Json] = {"rule": "even"}
PASSING, LASTING = Error("QUEUE_FULL", "wait", retryable=True), Error("INVALID_QUERY", "no\nnever")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@contextlib.contextmanager
def working(
    out: Path, *, overwrite: bool = False, retry_errors: bool = False, options: dict[str, Json] | None = None
) -> Iterator[ResultFile]:
    with opened(out, options or OPTIONS, overwrite=overwrite, retry_errors=retry_errors) as results:
        yield results


def key(number: int) -> LineKey:
    return LineKey(number.to_bytes(16))


def give(results: ResultFile, number: int, error: Error | None = None) -> ResultId:
    """A line gets its result, as the command would give it."""
    result_id = results.next_id(key(number))
    assert result_id is not None, f"line {number} is not to be asked"
    results.append(result_id, Result(str(result_id), f"q{number}", None, error))
    return result_id


def names_in(path: Path) -> list[str]:
    """custom_ids of the whole lines of a file."""
    found = [decoded(line) for line in path.read_bytes().splitlines()]
    return [result.custom_id for result in found if result is not None]


def files_beside(out: Path) -> set[str]:
    return {path.name for path in out.parent.iterdir()}


# --- a run without trouble ---


def test_results_become_whole_in_one_step(out: Path) -> None:
    with working(out) as results:
        for number in (3, 1, 2):
            give(results, number)
        assert files_beside(out) == {"out.jsonl.partial", "out.jsonl.batch"}
        results.finish()

    assert names_in(out) == ["q3", "q1", "q2"]
    assert files_beside(out) == {"out.jsonl"}


def test_a_batch_of_no_lines_is_whole_at_once(out: Path) -> None:
    with working(out) as results:
        results.finish()

    assert out.read_bytes() == b""
    assert files_beside(out) == {"out.jsonl"}


def test_a_result_names_batch_line_and_attempt(out: Path) -> None:
    with working(out) as results:
        given_id = give(results, 7)

        assert given_id == ResultId(results.batch, key(7), 0)
        assert parse_id(str(given_id)) == given_id
        assert len(str(given_id)) <= 253, "an idempotency key is no longer"


@pytest.mark.parametrize("text", ["", "batch-0-1-2", f"batch-{'0' * 16}-{'0' * 32}", f"batch-{'0' * 16}-{'G' * 32}-0"])
def test_other_ids_are_none_of_ours(text: str) -> None:
    assert parse_id(text) is None


# --- going on ---


def test_a_later_run_goes_on_under_the_same_name(out: Path) -> None:
    with working(out) as results:
        first = give(results, 1)
        unanswered = results.next_id(key(2))

    with working(out) as results:
        assert results.has_result_of(key(1))
        assert results.next_id(key(1)) is None
        assert results.next_id(key(2)) == unanswered, "another key would ask the query twice"
        assert [result.id for result in results.standing()] == [str(first)]
        give(results, 2)
        results.finish()

    assert names_in(out) == ["q1", "q2"]


@pytest.mark.parametrize("junk", [b"", b"\0" * 40, b'{"id": "x"}'])
def test_every_cut_of_a_torn_last_line_is_cut_off_and_no_other_lost(tmp_path: Path, junk: bytes) -> None:
    out = tmp_path / "whole.jsonl"
    with working(out) as results:
        give(results, 1)
        give(results, 2, LASTING)
        give(results, 3)
    partial, side = out.with_name("whole.jsonl.partial"), out.with_name("whole.jsonl.batch")
    content = partial.read_bytes()
    *_, last = content.splitlines(keepends=True)
    for cut in range(len(last)):
        torn = tmp_path / f"{cut}.jsonl"
        torn.with_name(f"{cut}.jsonl.partial").write_bytes(content[: len(content) - len(last) + cut] + junk)
        torn.with_name(f"{cut}.jsonl.batch").write_bytes(side.read_bytes())

        with working(torn) as results:
            assert [result.custom_id for result in results.standing()] == ["q1", "q2"], cut
            assert results.next_id(key(3)) is not None
            give(results, 3)
            results.finish()
        assert names_in(torn) == ["q1", "q2", "q3"]
        assert torn.read_bytes() == content


@given(kept=st.binary(max_size=60).filter(lambda junk: b"\n" not in junk))
def test_whole_lines_that_are_no_results_are_left_out(tmp_path_factory: pytest.TempPathFactory, kept: bytes) -> None:
    out = tmp_path_factory.mktemp("batch") / "out.jsonl"
    with working(out) as results:
        give(results, 1)
    with out.with_name("out.jsonl.partial").open("ab") as partial:
        partial.write(kept + b"\n")

    with working(out) as results:
        give(results, 2)
        results.finish()
    assert names_in(out) == ["q1", "q2"]
    assert len(out.read_bytes().splitlines()) == 2


def test_results_of_lines_that_are_gone_are_named_and_left_out(out: Path) -> None:
    with working(out) as results:
        for number in (1, 2, 3):
            give(results, number)

    with working(out) as results:
        present = {key(number) for number in (1, 3, 4) if results.has_result_of(key(number))}
        assert [result.custom_id for result in results.leave_out_others(present)] == ["q2"]
        assert [result.custom_id for result in results.standing()] == ["q1", "q3"]
        give(results, 4)
        results.finish()

    assert names_in(out) == ["q1", "q3", "q4"]


# --- errors asked again ---


def test_errors_that_may_have_passed_are_asked_again_as_a_new_attempt(out: Path) -> None:
    with working(out) as results:
        give(results, 1)
        give(results, 2, PASSING)
        give(results, 3, LASTING)

    with working(out, retry_errors=True) as results:
        asked = [results.next_id(key(number)) for number in (1, 2, 3)]
        assert asked == [None, ResultId(results.batch, key(2), 1), None]
        assert [result.custom_id for result in results.standing()] == ["q1", "q3"]
    with working(out, retry_errors=True) as results:
        assert results.next_id(key(2)) == asked[1], "in flight when the run broke off, it is found by its key"
        give(results, 2, PASSING)
        assert results.next_id(key(2)) is None, "once a run"
    with working(out, retry_errors=True) as results:
        assert give(results, 2).attempt == 2
        results.finish()

    assert names_in(out) == ["q1", "q3", "q2"]


def test_without_being_told_errors_stand(out: Path) -> None:
    with working(out) as results:
        give(results, 1, PASSING)

    with working(out) as results:
        assert results.next_id(key(1)) is None
        results.finish()
    assert names_in(out) == ["q1"]


def test_errors_of_whole_results_are_asked_again_and_the_rest_kept(out: Path) -> None:
    with working(out) as results:
        give(results, 1)
        give(results, 2, PASSING)
        results.finish()
    before = out.read_bytes()

    with working(out, retry_errors=True) as results:
        assert results.next_id(key(1)) is None
        again = results.next_id(key(2))
        assert out.read_bytes() == before, "whole until there is something better"
    with working(out, retry_errors=True) as results:
        assert give(results, 2) == again
        results.finish()

    assert names_in(out) == ["q1", "q2"]
    assert [result.error for line in out.read_bytes().splitlines() if (result := decoded(line))] == [None, None]


# --- what is refused ---


def refusal(out: Path, **given_options: object) -> str:
    with pytest.raises(CommandFailed) as raised, working(out, **given_options):  # type: ignore[arg-type]
        pass
    assert raised.value.exit_code is ExitCode.BAD_INPUT
    return str(raised.value)


def test_whole_results_are_not_replaced_unasked(out: Path) -> None:
    out.write_text("precious")

    said = refusal(out)

    assert "--overwrite" in said
    assert "--retry-errors" in said
    assert files_beside(out) == {"out.jsonl"}


def test_results_that_are_to_be_replaced_stay_until_the_new_are_whole(out: Path) -> None:
    out.write_text("old")
    with working(out, overwrite=True) as results:
        first = give(results, 1)
    assert out.read_text() == "old"
    assert "holds what is there of new results" in refusal(out)

    with working(out, overwrite=True) as results:
        assert results.batch == first.batch, "an interrupted replacement goes on"
        results.finish()
    assert names_in(out) == ["q1"]

    with working(out, overwrite=True) as results:
        assert results.batch != first.batch, "a new batch, or the old answers would be found"
        assert results.next_id(key(1)) is not None


def test_a_batch_keeps_the_options_it_was_begun_with(out: Path) -> None:
    with working(out) as results:
        give(results, 1)

    said = refusal(out, options={"rule": "majority-locked", "width": 2})
    assert "rule was 'even' and is 'majority-locked'; width was 'not given' and is 2" in said
    with working(out) as results:
        results.finish()
    assert "other options" in refusal(out, options={"rule": "majority-locked"}, retry_errors=True)
    assert files_beside(out) == {"out.jsonl"}


@pytest.mark.parametrize(
    "content", [b"not ours\n", b'{"id": "x", "custom_id": "a", "response": null, "error": null}\n']
)
def test_a_file_of_somebody_else_has_no_errors_to_ask_again(out: Path, content: bytes) -> None:
    out.write_bytes(content)

    assert "is no output of `dynasor batch`" in refusal(out, retry_errors=True)
    assert out.read_bytes() == content


def test_a_partial_file_without_its_companion_is_not_guessed_at(out: Path) -> None:
    with working(out) as results:
        give(results, 1)
    out.with_name("out.jsonl.batch").unlink()

    assert "has lost out.jsonl.batch" in refusal(out)
    assert names_in(out.with_name("out.jsonl.partial")) == ["q1"]


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere/out.jsonl", "there is no directory"), ("", "is no regular file")]
)
def test_a_place_where_no_file_can_be_is_bad_input(tmp_path: Path, name: str, message: str) -> None:
    assert message in refusal(tmp_path / name)


def test_a_second_process_is_kept_out_until_the_first_has_ended(out: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dynasor_serve.cli.batching.result_file import opened\n"
        f"with opened(Path({str(out)!r}), {OPTIONS!r}, overwrite=False, retry_errors=False):\n"
        "    print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert "another `dynasor batch` is writing out.jsonl" in refusal(out)
        other.kill()
    with working(out) as results:
        give(results, 1)
        results.finish()
    assert names_in(out) == ["q1"]


def test_a_lock_file_that_vanishes_while_it_is_taken_keeps_nobody_out_and_is_not_taken(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = out.with_name("out.jsonl.batch")
    flock, calls = fcntl.flock, 0

    def finished_in_between(handle: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            side.unlink()  # by the process that held it until now
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", finished_in_between)
    with working(out):
        assert side.exists()
        assert "another `dynasor batch`" in refusal(out)
    assert calls == 3


def test_a_full_disk_ends_the_run_and_loses_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with working(out) as results:
        give(results, 1)

        def fill_up(handle: int, content: bytes) -> int:
            if len(content) < 40:
                raise OSError(28, "No space left on device")
            return write(handle, content[:40])

        monkeypatch.setattr(os, "write", fill_up)
        with pytest.raises(CommandFailed, match="No space left") as raised:
            give(results, 2)
        assert raised.value.exit_code is ExitCode.FAILED
        monkeypatch.undo()
    assert not out.with_name("out.jsonl.partial").read_bytes().endswith(b"\n")

    with working(out) as results:
        assert [result.custom_id for result in results.standing()] == ["q1"]


@given(st.text(), st.text())
def test_a_line_has_one_end_whatever_it_says(custom_id: str, message: str) -> None:
    with contextlib.suppress(UnicodeEncodeError):  # lone surrogates, which no input holds
        result = Result("x", custom_id, None, Error("CODE", message))
        line = encoded(result)

        assert line.decode().splitlines(keepends=True) == [line.decode()]
        assert decoded(line) == result
