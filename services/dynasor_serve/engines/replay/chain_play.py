"""Plays the recorded chains of a question: their text, and what they answered when they were asked on their way.

The branch chooses the chain of a fresh call. Of a call that goes on, the text tells the chain and the position: asked
there, a chain answers as it did at the last recorded probe up to that position, and before the first it has no answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from dynasor_serve.engines.replay.chain_text import THINK, ChainTexts
from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.placing import LEAST_CHARACTERS, Place, RecordedText, find_place, find_start
from dynasor_serve.engines.replay.play import NO_PATH, UNKNOWN_REWARD, Answer, PathRewards, Reply, judgement
from dynasor_serve.engines.replay.probe_reply import NOTHING, final_probe, probe_reply, stated_reply
from dynasor_serve.engines.replay.records import ProbesRecord
from dynasor_serve.engines.replay.suffixes import Ask
from dynasor_serve.engines.replay.synthetic_text import find_sign


class ChainPlay:
    """The chains of one question. Branch b of a question with k chains gets chain b mod k.

    Args:
        chains: In order.
        texts: Renders them.
    """

    def __init__(self, chains: Sequence[ProbesRecord], *, texts: ChainTexts) -> None:
        self._chains = chains
        self._texts = texts
        self._name = f"{chains[0].dataset}/{chains[0].question_id}"

    @property
    def prompt_tokens(self) -> int | None:
        return None

    def find_start(self, region: str) -> int | None:
        texts = [RecordedText(i, chain.text or "", chain.text is None) for i, chain in enumerate(self._chains)]
        start = find_start(region, texts)
        if start is not None and any(chain.think_tags for chain in self._chains) and region[:start].endswith(THINK):
            return start - len(THINK)
        return start

    def turn(self, reply: Reply) -> str | None:
        return None if reply.text else self._name

    def answer(self, reply: Reply, number: int) -> Answer | None:
        preferred = number % len(self._chains)
        if not reply.text:
            return Answer(Ask.GO_ON, self._emission(preferred))
        place = find_place(reply.text, self._candidates(reply.text, preferred))
        if place is None:
            return None
        match place.question.ask:
            case Ask.GO_ON:
                return Answer(Ask.GO_ON, self._emission(place.number).after(place.characters))
            case Ask.JUDGE:
                return judgement(_reward(self._chains[place.number]))
        return Answer(place.question.ask, self._answer_so_far(place))

    def rewards(self, path: str) -> PathRewards | None:
        if not path:
            return NO_PATH
        place = find_place(path, self._candidates(path, 0))
        if place is None or place.characters < min(len(path), LEAST_CHARACTERS):
            return None
        return PathRewards((_reward(self._chains[place.number]),), place.characters)

    def _answer_so_far(self, place: Place) -> Emission:
        question = place.question
        if question.stated is not None:
            return stated_reply(question.stated)
        chain, text = self._chains[place.number], self._texts.of(self._chains[place.number], place.number)
        asked = bisect_right(text.asked_from, text.position(place.characters))
        probe = text.probes[asked - 1] if asked else NOTHING
        # Whoever probes wants what was recorded of a probe; whoever closes the thinking at its end, what it came to.
        final = chain.as_written(chain.final_answer)
        if final and question.ask is Ask.CONCLUDE and place.characters == len(text.text):
            probe = final_probe(final, chain.tokens)
        return probe_reply(probe, question, name=f"{self._name} {place.number}")

    def _candidates(self, reply: str, preferred: int) -> Iterator[RecordedText]:
        """Yield the chains that a reply may repeat, the preferred one first; a sign tells which."""
        found = find_sign(reply)
        if found is not None and found[1] < len(self._chains) and self._chains[found[1]].text is None:
            yield self._recorded_text(found[1])
            return
        yield self._recorded_text(preferred)
        for number in range(len(self._chains)):
            if number != preferred:
                yield self._recorded_text(number)

    def _recorded_text(self, number: int) -> RecordedText:
        chain = self._chains[number]
        return RecordedText(number, self._texts.of(chain, number).text, is_signed=chain.text is None)

    def _emission(self, number: int) -> Emission:
        chain = self._chains[number]
        return self._texts.of(chain, number).emission(chain, f"{self._name} {number}")


def _reward(chain: ProbesRecord) -> float:
    return UNKNOWN_REWARD if chain.reward is None else chain.reward
