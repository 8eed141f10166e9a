"""Chains played: what goes on, what is answered on the way, and that every prefix is found again."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.token_confidence import mean_probability
from dynasor_serve.certaindex.trial_answer import read_trial
from dynasor_serve.engines.replay.chain_play import ChainPlay
from dynasor_serve.engines.replay.chain_text import ChainTexts
from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.play import Reply
from dynasor_serve.engines.replay.records import Probe, ProbesRecord
from dynasor_serve.engines.replay.suffixes import Ask
from dynasor_serve.engines.replay.trace_index import Chains, grouped
from dynasor_serve.engines.replay.traces import read_records
from dynasor_serve.programs.probe_prompts import BUILT_IN

from fakes.replay_process import SYNTHETIC_CHAINS

DEER = BUILT_IN["deer"].suffix
DYNASOR = BUILT_IN["dynasor"].suffix
CONCLUSION = "\n\n**Final Answer**\n\\boxed{"
JUDGE = "\n\nQuestion: Is the solution so far correct? Answer Yes or No.\nAnswer:"
QUESTIONS = ("converging", "diverging", "hesitant", "confident", "doubtful", "unfinished", "misled", "speechless")


@cache
def recorded() -> dict[str, Chains]:
    groups = grouped(read_records([SYNTHETIC_CHAINS]))
    return {group.records[0].question_id: group for group in groups if isinstance(group, Chains)}


@cache
def play_of(question: str) -> ChainPlay:
    return ChainPlay(recorded()[question].records, texts=ChainTexts(characters_per_token=4))


def said(question: str, number: int = 0) -> Emission:
    """A whole chain."""
    answer = play_of(question).answer(Reply(), number)
    assert answer is not None
    assert answer.ask is Ask.GO_ON
    return answer.emission


def asked(question: str, text: str, suffix: str, number: int = 0) -> tuple[Ask, Emission]:
    answer = play_of(question).answer(Reply(text + suffix), number)
    assert answer is not None
    return answer.ask, answer.emission


def last_probe(record: ProbesRecord, position: int) -> Probe | None:
    """What was recorded last up to a position."""
    return next((probe for probe in reversed(record.trials()) if probe.position <= position), None)


def test_the_fixture_is_as_its_readme_says() -> None:
    chains = {question: group.records for question, group in recorded().items()}

    assert set(chains) == set(QUESTIONS)
    assert sum(map(len, chains.values())) == 18
    assert all(record.seed == 42 + number for group in chains.values() for number, record in enumerate(group))
    assert all(330 <= record.tokens <= 1200 for group in chains.values() for record in group)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_branch_gets_its_chain_with_its_recorded_tokens(question: str) -> None:
    records = recorded()[question].records

    for branch in range(2 * len(records)):
        record, emission = records[branch % len(records)], said(question, branch)
        assert (emission.tokens, emission.finish_reason) == (record.tokens, "stop" if record.finished else "length")
    texts = [said(question, branch).text for branch in range(len(records))]
    assert len(set(texts)) == len(records)


choices = st.tuples(st.sampled_from(QUESTIONS), st.integers(0, 2), st.floats(0, 1))


@given(choice=choices, branch=st.integers(0, 5), suffix=st.sampled_from([DEER, DYNASOR, "\n</think>\n\n" + DEER]))
def test_any_prefix_with_a_probe_behind_it_is_answered_as_recorded_there(
    choice: tuple[str, int, float], branch: int, suffix: str
) -> None:
    question, number, share = choice
    records = recorded()[question].records
    number %= len(records)
    whole, record = said(question, number), records[number]
    characters = max(1, int(share * len(whole.text)))
    position = max(token for token in range(record.tokens + 1) if whole.offset(token) <= characters)

    ask, reply = asked(question, whole.text[:characters], suffix, branch)

    assert ask is Ask.PROBE
    trial = read_trial(reply.text, AnswerType.MATH, opened_box=True)
    wanted = last_probe(record, position)
    assert (trial.answer or "") == ("" if wanted is None else wanted.answer)
    if wanted is not None:
        assert trial.hesitant is not wanted.certain
        assert reply.tokens == wanted.tokens


@given(choice=choices, branch=st.integers(0, 5), suffix=st.text(min_size=1, max_size=40))
def test_any_prefix_with_words_behind_it_that_the_chain_does_not_say_is_a_probe_there(
    choice: tuple[str, int, float], branch: int, suffix: str
) -> None:
    question, number, share = choice
    records = recorded()[question].records
    number %= len(records)
    whole, record = said(question, number), records[number]
    token = max(1, int(share * record.tokens))
    prefix = whole.text[: whole.offset(token)]
    assume(not whole.text[len(prefix) :].startswith(suffix[0]))

    ask, reply = asked(question, prefix, suffix, branch)

    assert ask in (Ask.PROBE, Ask.CONCLUDE)
    wanted = last_probe(record, token)
    final = record.as_written(record.final_answer) if ask is Ask.CONCLUDE and token == record.tokens else None
    answer = final or ("" if wanted is None else wanted.answer)
    assert reply.text.startswith(f"\\boxed{{{answer}}}" if answer else "")


@given(choice=choices, branch=st.integers(0, 5))
def test_any_prefix_alone_goes_on_with_the_rest_of_its_chain(choice: tuple[str, int, float], branch: int) -> None:
    question, number, share = choice
    number %= len(recorded()[question].records)
    whole = said(question, number)
    token = max(1, int(share * whole.tokens))
    prefix = whole.text[: whole.offset(token)]

    ask, rest = asked(question, prefix, "", branch)

    assert ask is Ask.GO_ON
    assert prefix + rest.text == whole.text
    assert (token + rest.tokens, rest.finish_reason) == (whole.tokens, whole.finish_reason)
    assert [rest.offset(left) for left in range(1, rest.tokens)] == [
        whole.offset(token + left) - len(prefix) for left in range(1, rest.tokens)
    ]


@pytest.mark.parametrize("question", ["confident", "doubtful"])
def test_the_recorded_confidence_is_the_mean_probability_of_the_answers_tokens(question: str) -> None:
    for number, record in enumerate(recorded()[question].records):
        for probe in record.trials():
            whole = said(question, number)
            _, reply = asked(question, whole.text[: whole.offset(probe.position)], DEER)

            texts = [reply.piece(token, token + 1) for token in range(reply.tokens)]
            until_brace = next(i for i in range(1, len(texts) + 1) if "".join(texts[:i]).startswith(probe.answer + "}"))
            mean = mean_probability([reply.odds.logprob(token) for token in range(until_brace)])
            assert mean == pytest.approx(probe.confidence, abs=1e-6)


def test_neighbouring_trials_are_told_apart() -> None:
    whole = said("confident")

    confidences = []
    for position in (332, 333, 334, 335):
        _, reply = asked("confident", whole.text[: whole.offset(position)], DEER)
        confidences.append(round(mean_probability([reply.odds.logprob(0)]), 4))

    assert confidences == [0.9312, 0.9655, 0.9871, 0.9871]


def test_an_answer_is_put_into_a_box_where_the_question_has_opened_none() -> None:
    prefix = said("converging").text[:-1]

    assert asked("converging", prefix, " So far: ")[1].text == "\\boxed{204}."
    assert asked("converging", prefix, "\nIn short \\fbox{")[1].text == "204}."


def replied(answer: str, suffix: str) -> Emission:
    """The reply of a chain that once answered this."""
    fields: dict[str, Any] = {"dataset": "d", "model": "m", "question_id": "q", "gold": "7", "answers": (answer,)}
    record = ProbesRecord(tokens=10, probes=((4.0, 0.0, 1.0, 9.0),), **fields)
    play = ChainPlay((record,), texts=ChainTexts(characters_per_token=4))
    whole = play.answer(Reply(), 0)
    assert whole is not None
    reply = play.answer(Reply(whole.emission.text + suffix), 0)
    assert reply is not None
    return reply.emission


@pytest.mark.parametrize("answer", ["\\(2, 4)\\", "\\frac{1}{2}", "a \\text{ or } b", "\\{1, 2\\}"])
@pytest.mark.parametrize("suffix", [DEER, " So far: "])
def test_answers_with_braces_and_backslashes_are_read_as_they_were_recorded(answer: str, suffix: str) -> None:
    trial = read_trial(replied(answer, suffix).text, AnswerType.TEXT, opened_box=suffix == DEER)

    assert trial.answer == answer


@pytest.mark.parametrize(("suffix", "text"), [(DEER, "11^{"), (" So far: ", "\\boxed{11^{")])
def test_an_answer_that_was_cut_off_inside_a_brace_is_cut_off_again(suffix: str, text: str) -> None:
    reply = replied("11^{", suffix)

    assert (reply.text, reply.tokens, reply.finish_reason) == (text, 9, "length")


def test_before_the_first_probe_there_is_no_answer() -> None:
    first = said("speechless", 1).text[:40]

    for suffix, text in ((DEER, "}."), (" So far: ", "")):
        reply = asked("speechless", first, suffix)[1]
        assert (reply.text, reply.tokens) == (text, 1)
        opened = suffix == DEER
        assert read_trial(reply.text, AnswerType.TEXT, opened_box=opened).answer is None


@pytest.mark.parametrize("closed", ["", "\n</think>\n\n"])
def test_a_conclusion_is_answered_as_recorded_where_the_chain_was_cut(closed: str) -> None:
    whole = said("misled")
    early, late = whole.text[: whole.offset(400)], whole.text[: whole.offset(700)]

    assert [asked("misled", text, closed + CONCLUSION)[0] for text in (early, late)] == [Ask.CONCLUDE] * 2
    assert [asked("misled", text, closed + CONCLUSION)[1].text for text in (early, late)] == ["21}.", "12}."]


def test_a_conclusion_at_the_end_of_an_unfinished_chain_is_its_recorded_final_answer() -> None:
    with_answer, without = said("unfinished").text, said("unfinished", 1).text

    assert asked("unfinished", with_answer, CONCLUSION)[1].text == "9}."
    assert asked("unfinished", without, CONCLUSION)[1].text == "7}.", "it has none: the last probe's"
    assert asked("speechless", said("speechless", 1).text, CONCLUSION)[1].text == "(2, 3)}.", "never probed"


def test_an_answer_that_the_question_states_is_put_into_words() -> None:
    ask, reply = asked("misled", said("misled").text[:800], "\n</think>\n\nThe final answer is \\boxed{21}.\n\n")

    assert ask is Ask.CONCLUDE
    assert reply.text == "So the answer is \\boxed{21}."


def test_a_chain_without_a_reward_is_judged_as_undecided() -> None:
    ask, reply = asked("misled", said("misled").text, JUDGE)

    assert (ask, reply.tokens) == (Ask.JUDGE, 1)
    assert reply.odds.logprob(0) == pytest.approx(reply.odds.alternatives(0, 1)[0][1])
    rewards = play_of("misled").rewards(said("misled").text)
    assert rewards is not None
    assert (rewards.steps, rewards.characters) == ((0.5,), len(said("misled").text))


def test_words_that_no_chain_said_are_not_recorded() -> None:
    assert play_of("misled").answer(Reply("I think that"), 0) is None
    assert play_of("misled").rewards("I think that") is None


def test_a_probe_before_the_first_word_is_the_branchs_chains() -> None:
    ask, reply = asked("converging", "", DEER, number=2)

    assert (ask, reply.text) == (Ask.PROBE, "}.")


def test_a_reply_begins_at_its_chains_sign_wherever_the_prompt_ends() -> None:
    play, text = play_of("converging"), said("converging", 2).text

    assert play.find_start(f" and explain.\n{text[:30]}") == len(" and explain.\n")
    assert play.find_start(" and explain.\n") is None


def test_a_reply_with_tags_begins_at_its_tag() -> None:
    fields: dict[str, Any] = {"dataset": "d", "model": "m", "question_id": "q", "gold": "7", "answers": ()}
    chain = ProbesRecord(tokens=100, probes=(), think_tags=True, final_answer="7", **fields)
    play = ChainPlay((chain,), texts=ChainTexts(characters_per_token=4))
    whole = play.answer(Reply(), 0)
    assert whole is not None

    assert play.find_start("Think.\n" + whole.emission.text[:50]) == len("Think.\n")


def test_recorded_texts_are_found_by_their_beginning_and_played_as_they_are() -> None:
    fields: dict[str, Any] = {"dataset": "d", "model": "m", "question_id": "q", "gold": "7", "answers": ("6", "7")}
    rows = ((4.0, 0.0, 1.0, 3.0), (8.0, 1.0, 0.0, 5.0))
    one = ProbesRecord(tokens=10, text="Let me add three to four. It is 7.", probes=rows, final_answer="7", **fields)
    other = ProbesRecord(tokens=10, text="Let me count: four, five, six, 7.", probes=rows, final_answer="7", **fields)
    play = ChainPlay((one, other), texts=ChainTexts(characters_per_token=4))

    going_on = play.answer(Reply("Let me count: four"), 0)
    probe = play.answer(Reply("Let me count: four, five, six" + DEER), 0)

    assert going_on is not None
    assert (going_on.emission.text, going_on.emission.tokens) == (", five, six, 7.", 5)
    assert probe is not None
    assert probe.emission.text == "7} ... Wait, hmm."
    assert play.find_start("Think.\nLet me count: four, five, six") == len("Think.\n")
    assert play.find_start("Think.\nLet me c") == len("Think.\n")
    assert play.find_start("Think.\nLet me") is None, "too short to be told from the prompt"
