r"""Plays the recorded samples of a question.

A sample's text is the recorded one, else filler reasoning and the final answer in `\boxed{}`. A call that goes on
behind a part of a sample gets the rest of that sample. What a sample would have answered on its way was not recorded:
asked before its end, it has no answer. Words of a user's own behind a whole sample are another turn: the next sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.placing import LEAST_CHARACTERS, Place, RecordedText, find_place, find_start
from dynasor_serve.engines.replay.play import NO_PATH, UNKNOWN_REWARD, Answer, PathRewards, Reply, judgement
from dynasor_serve.engines.replay.probe_reply import NOTHING, final_probe, probe_reply, stated_reply
from dynasor_serve.engines.replay.records import Sample, SamplesRecord
from dynasor_serve.engines.replay.suffixes import Ask, Question
from dynasor_serve.engines.replay.synthetic_text import find_sign, last_sentence, sentences, sign
from dynasor_serve.engines.replay.token_odds import AsRecorded, Even, MadeUp, TokenOdds

#: Behind a whole sample no probe, but the next turn of a conversation that is written as one plain text.
_OWN_WORDS: Final = Question(Ask.PROBE)


class SamplePlay:
    """The samples of one question. Branch b of a question with k samples gets sample b mod k.

    Args:
        record: The question.
        characters_per_token: Length of synthesised text per recorded token; 0 leaves the last sentence alone.
    """

    def __init__(self, record: SamplesRecord, *, characters_per_token: float) -> None:
        self._record = record
        self._characters_per_token = characters_per_token
        self._name = f"{record.dataset}/{record.question_id}"

    @property
    def prompt_tokens(self) -> int | None:
        return self._record.samples[0].in_tokens

    def find_start(self, region: str) -> int | None:
        return find_start(region, tuple(self._texts()))

    def turn(self, reply: Reply) -> str | None:
        return None if reply.text else self._name

    def answer(self, reply: Reply, number: int) -> Answer | None:
        preferred = number % len(self._record.samples)
        if not reply.text:
            return Answer(Ask.GO_ON, self.emission(preferred))
        place = find_place(reply.text, self._candidates(reply.text, preferred))
        if place is None:
            return None
        sample = self._record.samples[place.number]
        if place.question == _OWN_WORDS and place.characters == len(self._text(place.number)):
            return Answer(Ask.GO_ON, self.emission(preferred))
        match place.question.ask:
            case Ask.GO_ON:
                return Answer(Ask.GO_ON, self.emission(place.number).after(place.characters))
            case Ask.JUDGE:
                return judgement(_reward(sample))
        return Answer(place.question.ask, self._final_answer(sample, place))

    def rewards(self, path: str) -> PathRewards | None:
        if not path:
            return NO_PATH
        place = find_place(path, self._candidates(path, 0))
        if place is None or place.characters < min(len(path), LEAST_CHARACTERS):
            return None
        return PathRewards((_reward(self._record.samples[place.number]),), place.characters)

    def emission(self, number: int) -> Emission:
        """Return a whole sample."""
        sample = self._record.samples[number]
        return Emission(
            text=self._text(number),
            tokens=sample.tokens,
            finish_reason="stop" if sample.finished else "length",
            odds=_odds(sample, f"{self._name} {number}"),
        )

    def _final_answer(self, sample: Sample, place: Place) -> Emission:
        if place.question.stated is not None:
            return stated_reply(place.question.stated)
        answer = self._record.answer_text(sample)
        is_whole = place.characters == len(self._text(place.number))
        probe = final_probe(answer, sample.tokens) if is_whole and answer else NOTHING
        return probe_reply(probe, place.question, name=f"{self._name} {place.number}")

    def _candidates(self, reply: str, preferred: int) -> Iterator[RecordedText]:
        """Yield the samples that a reply may repeat, the preferred one first; its sign tells which."""
        found = find_sign(reply) if self._characters_per_token else None
        if found is not None and found[0] == 0 and found[1] < len(self._record.samples):
            yield self._recorded_text(found[1])
            return
        yield self._recorded_text(preferred)
        for number in range(len(self._record.samples)):
            if number != preferred:
                yield self._recorded_text(number)

    def _texts(self) -> Iterator[RecordedText]:
        return map(self._recorded_text, range(len(self._record.samples)))

    def _recorded_text(self, number: int) -> RecordedText:
        is_signed = self._record.samples[number].text is None and self._characters_per_token > 0
        return RecordedText(number, self._text(number), is_signed)

    def _text(self, number: int) -> str:
        sample = self._record.samples[number]
        if sample.text is not None:
            return sample.text
        ending = last_sentence(self._record.answer_text(sample))
        opening = f"{sign(number)} " if self._characters_per_token else ""
        characters = int(sample.tokens * self._characters_per_token) - len(ending) - len(opening)
        return opening + sentences(number, characters) + ending


def _reward(sample: Sample) -> float:
    return UNKNOWN_REWARD if sample.reward is None else sample.reward


def _odds(sample: Sample, name: str) -> TokenOdds:
    if sample.token_logprobs is not None and len(sample.token_logprobs) == sample.tokens:
        return AsRecorded(sample.token_logprobs)
    return MadeUp.of(name) if sample.confidence is None else Even(sample.confidence)
