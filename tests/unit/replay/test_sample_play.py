r"""Samples played: the recorded text or filler with the answer in `\boxed{}`, gone on with, and judged."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.play import Answer, Reply
from dynasor_serve.engines.replay.records import GOLD, Sample, SamplesRecord
from dynasor_serve.engines.replay.sample_play import SamplePlay
from dynasor_serve.engines.replay.suffixes import Ask
from dynasor_serve.engines.replay.synthetic_text import sign
from dynasor_serve.engines.token_evidence import probability_of_yes
from dynasor_serve.programs.probe_prompts import BUILT_IN

DEER = BUILT_IN["deer"].suffix
CONCLUSION = "\n</think>\n\n\n\n**Final Answer**\n\\boxed{"
JUDGE = "\n\nQuestion: Is the solution above correct? Answer Yes or No.\nAnswer:"


def sample(answer: str | None = "42", tokens: int = 100, text: str | None = None, **fields: Any) -> Sample:
    return Sample(answer=answer, correct=answer == "42", tokens=tokens, text=text, **fields)


def play(*samples: Sample, characters_per_token: float = 4) -> SamplePlay:
    record = SamplesRecord(
        dataset="d", model="m", question_id="q", gold="42", tokens_kind="exact", samples=samples or (sample(),)
    )
    return SamplePlay(record, characters_per_token=characters_per_token)


def answered(samples: SamplePlay, text: str, number: int = 0) -> Answer:
    answer = samples.answer(Reply(text), number)
    assert answer is not None, f"nothing was recorded behind {text!r}"
    return answer


def emitted(samples: SamplePlay, number: int = 0) -> Emission:
    return answered(samples, "", number).emission


def reward_told(answer: Answer) -> float | None:
    odds = answer.emission.odds
    return probability_of_yes([(answer.emission.text, odds.logprob(0)), *odds.alternatives(0, 19)])


def test_a_recorded_text_is_played_as_it_is() -> None:
    emission = emitted(play(sample(text="So it is \\boxed{7}.", tokens=9)))

    assert (emission.text, emission.tokens, emission.finish_reason) == ("So it is \\boxed{7}.", 9, "stop")


def test_a_synthesised_text_ends_with_the_answer_and_holds_no_other_number() -> None:
    emission = emitted(play(sample(answer=GOLD, tokens=500)))

    reasoning, _, answer = emission.text.rpartition("The final answer is ")
    assert answer == "\\boxed{42}."
    assert not re.search(r"\d|answer|boxed|wait|hmm", reasoning, re.IGNORECASE)
    assert 0.8 * 2000 < len(emission.text) <= 2000


def test_a_sample_without_an_answer_speaks_of_none() -> None:
    emission = emitted(play(sample(answer=None, tokens=400, finished=False)))

    assert "answer" not in emission.text
    assert emission.text
    assert emission.finish_reason == "length", "the recorded call had run into its limit"


def test_samples_read_differently_from_their_first_character_on_and_the_same_one_alike() -> None:
    samples = play(*[sample(tokens=300)] * 300)

    texts = [emitted(samples, number).text for number in range(300)]

    assert len(set(texts)) == 300
    assert all(text.startswith(sign(number) + " ") for number, text in enumerate(texts))
    assert emitted(samples, 7).text == texts[7]


def test_no_filler_leaves_the_answer_alone() -> None:
    assert emitted(play(characters_per_token=0)).text == "The final answer is \\boxed{42}."


@given(
    number=st.integers(0, 15),
    branch=st.integers(0, 40),
    share=st.floats(0, 1),
    characters_per_token=st.sampled_from([0.5, 1, 4]),
)
def test_any_part_of_a_sample_goes_on_with_the_rest_of_it(
    number: int, branch: int, share: float, characters_per_token: float
) -> None:
    samples = play(*[sample(tokens=200)] * 16, characters_per_token=characters_per_token)
    whole = emitted(samples, number)
    said = whole.text[: max(1, int(share * len(whole.text)))]

    answer = answered(samples, said, branch)

    assert answer.ask is Ask.GO_ON
    assert said + answer.emission.text == whole.text
    assert 0 <= answer.emission.tokens <= whole.tokens


def test_of_texts_that_begin_alike_the_branchs_own_goes_on() -> None:
    samples = play(sample(text="It is 7.", tokens=3), sample(text="It is 8.", tokens=3), sample(text="No.", tokens=1))

    assert answered(samples, "It is ", 1).emission.text == "8."
    assert answered(samples, "It is ", 2).emission.text == "7."
    assert answered(samples, "No", 0).emission.text == "."
    assert samples.answer(Reply("Maybe"), 0) is None


def test_a_sample_has_its_answer_at_its_end_and_none_before() -> None:
    samples = play(sample(answer=GOLD, tokens=300))
    text = emitted(samples).text

    assert answered(samples, text[:200] + DEER).emission.text == "}."
    assert answered(samples, text[:200] + CONCLUSION).emission.text == "}."
    assert answered(samples, text + CONCLUSION).emission.text == "42}."
    assert answered(samples, text + "\n</think>\n\nSo: ").emission.text == "\\boxed{42}."


def test_words_behind_a_whole_sample_are_another_turn_of_the_conversation() -> None:
    samples = play(*[sample(tokens=200)] * 3)
    said = emitted(samples, 0).text

    answer = answered(samples, said + "\n\nAre you sure?\n\n", 1)

    assert (answer.ask, answer.emission.text) == (Ask.GO_ON, emitted(samples, 1).text)


@pytest.mark.parametrize(("reward", "told"), [(0.83, 0.83), (0.0, 0.0), (1.0, 1.0), (None, 0.5)])
def test_a_sample_is_judged_as_it_was_recorded(reward: float | None, told: float) -> None:
    samples = play(sample(tokens=200), sample(tokens=200, reward=reward))
    text = emitted(samples, 1).text

    for said in (text, text[:50]):
        answer = answered(samples, said + JUDGE)
        assert (answer.ask, answer.emission.tokens) == (Ask.JUDGE, 1)
        assert answer.emission.text == (" Yes" if told >= 0.5 else " No")
        assert reward_told(answer) == pytest.approx(told, abs=1e-9)
        rewards = samples.rewards(said)
        assert rewards is not None
        assert (rewards.steps, rewards.characters) == ((told,), len(said))


def test_a_path_that_no_sample_took_has_no_reward_and_no_path_an_undecided_one() -> None:
    samples = play()

    assert samples.rewards("Something else entirely") is None
    nothing = samples.rewards("")
    assert nothing is not None
    assert nothing.steps == (0.5,)


def test_log_probabilities_are_the_recorded_ones_as_far_as_they_go() -> None:
    logprobs = (-0.1, -0.2, -0.3)
    told = Sample(answer="7", correct=True, tokens=3, text="It is 7.", token_logprobs=logprobs)
    torn = Sample(answer="7", correct=True, tokens=4, text="It is 7.", token_logprobs=logprobs, confidence=0.25)
    samples = play(told, torn, sample(tokens=3))

    assert [emitted(samples, 0).odds.logprob(token) for token in range(3)] == list(logprobs)
    assert answered(samples, "It ", 0).emission.odds.logprob(0) == -0.2
    assert emitted(samples, 1).odds.logprob(3) == pytest.approx(math.log(0.25)), "too few: the mean is known"
    assert math.log(0.5) <= emitted(samples, 2).odds.logprob(0) <= 0, "nothing is known"


def test_prompt_tokens_are_the_recorded_ones() -> None:
    assert play(Sample(answer="7", correct=True, tokens=1, in_tokens=77)).prompt_tokens == 77
    assert play().prompt_tokens is None
