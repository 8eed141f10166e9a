r"""Plays a recorded search tree: walks it by the text of a path, and answers with what was thought behind that path.

A path is the thoughts on it, each with the delimiter of steps behind it, which may be left out behind the last. The
delimiter is the program's: the first of the request's stop strings that is made of line breaks. Thoughts are answered
as if the model would go on to the end of the recorded path, and the stop string ends that as it would end a model's
text. So an inner thought ends with the stop string, and one behind which nothing was recorded with the model's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.placing import RecordedText, find_start
from dynasor_serve.engines.replay.play import NO_PATH, UNKNOWN_REWARD, Answer, PathRewards, Reply, judgement
from dynasor_serve.engines.replay.probe_reply import NOTHING, final_probe, probe_reply, stated_reply
from dynasor_serve.engines.replay.records import StepsRecord
from dynasor_serve.engines.replay.suffixes import Ask, Question, read_own, readings
from dynasor_serve.engines.replay.token_odds import MadeUp
from dynasor_serve.engines.replay.token_offsets import TokenOffsets
from dynasor_serve.engines.replay.tree import Node, build_tree

_DELIMITER: Final = "\n"  # of a program that names none


class Walk(NamedTuple):
    """Where a path leads.

    Attributes:
        nodes: The whole thoughts on it, the root first.
        begun: A thought that it breaks off in: what it has of it.
    """

    nodes: tuple[Node, ...]
    begun: str

    @property
    def end(self) -> Node:
        """The last whole thought."""
        return self.nodes[-1]

    @property
    def next_thoughts(self) -> Sequence[Node]:
        """The recorded thoughts that go on from here."""
        return [child for child in self.end.candidates if child.text.startswith(self.begun)]

    @property
    def is_recorded(self) -> bool:
        """Whether the recorded search has been here."""
        return not self.begun or bool(self.next_thoughts)


class TreePlay:
    """The tree of one question. Branch b at a node with k recorded thoughts behind it gets thought b mod k.

    Args:
        record: The search.
    """

    def __init__(self, record: StepsRecord) -> None:
        self._root = build_tree(record)
        self._name = f"{record.dataset}/{record.question_id}"

    @property
    def prompt_tokens(self) -> int | None:
        return None

    def find_start(self, region: str) -> int | None:
        texts = [RecordedText(number, text, is_signed=False) for number, text in enumerate(self._root.children)]
        return find_start(region, texts)

    def turn(self, reply: Reply) -> str | None:
        return f"{self._name}\n{reply.text}" if self.walk(reply.text).is_recorded else None

    def answer(self, reply: Reply, number: int) -> Answer | None:
        for said, question in readings(reply.text):
            walk = self.walk(said)
            if walk.is_recorded:
                return self._answer_at(walk, question, reply, number)
        walk = self.walk(reply.text)
        question = read_own(walk.begun)
        is_recorded = len(walk.nodes) > 1 and (question.opened_box or question.ask is Ask.CONCLUDE)
        return self._answer_at(walk, question, reply, number) if is_recorded else None

    def rewards(self, path: str) -> PathRewards | None:
        walk = self.walk(path)
        thoughts = walk.nodes[1:]
        if not thoughts:
            return NO_PATH if walk.is_recorded else None
        return PathRewards(tuple(map(_reward, thoughts)), len(path) - len(walk.begun))

    def walk(self, path: str) -> Walk:
        """Follow a path's text from the root, as far as it was recorded."""
        walks = list(_walks((self._root,), path.lstrip("\n")))
        return next((walk for walk in walks if walk.is_recorded), min(walks, key=lambda walk: len(walk.begun)))

    def _answer_at(self, walk: Walk, question: Question, reply: Reply, number: int) -> Answer:
        match question.ask:
            case Ask.GO_ON:
                return Answer(Ask.GO_ON, self._going_on(walk, _delimiter(reply.stop), number))
            case Ask.JUDGE:
                return judgement(_reward(walk.end))
        if question.stated is not None:
            return Answer(question.ask, stated_reply(question.stated))
        answer = next((node.answer for node in walk.end.below() if node.answer), None)
        probe = final_probe(answer, 0) if answer else NOTHING
        return Answer(question.ask, probe_reply(probe, question, name=self._name))

    def _going_on(self, walk: Walk, delimiter: str, number: int) -> Emission:
        """Return what was thought next, to the end of a recorded path."""
        choices = walk.next_thoughts
        if not choices:  # a path that had come to its end
            return Emission("", 0, "stop")
        node: Node | None = choices[number % len(choices)]
        text, tokens = "", 0
        points = []
        while node is not None:
            text += node.text
            tokens += node.tokens
            node = node.successor
            text += "" if node is None else delimiter
            points.append((tokens, len(text)))
        odds = MadeUp.of(f"{self._name} {text}")
        return Emission(text, tokens, "stop", offsets=TokenOffsets.through(points), odds=odds).after(len(walk.begun))


def _walks(nodes: tuple[Node, ...], rest: str) -> Iterator[Walk]:
    """Yield the ways to read the rest of a path, those with the longest thoughts first.

    A thought is whole where a line break or the path's end follows it, and yet it may be the first line of another.
    """
    whole = [
        child
        for text, child in nodes[-1].children.items()
        if rest and rest.startswith(text) and rest[len(text) :][:1] in ("", "\n")
    ]
    for child in sorted(whole, key=lambda child: -len(child.text)):
        yield from _walks((*nodes, child), rest[len(child.text) :].lstrip("\n"))
    yield Walk(nodes, rest)


def _delimiter(stop: Sequence[str]) -> str:
    return next((word for word in stop if word and not word.strip("\n")), _DELIMITER)


def _reward(node: Node) -> float:
    return UNKNOWN_REWARD if node.reward is None else node.reward
