"""What did a search look at? The tree of thoughts behind a `steps` record. Pure.

A node is a thought at the end of one path. Candidates with the same path are one node, with the first one's value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, TypeVar

from dynasor_serve.engines.replay.records import Candidate, Step, StepsRecord, expanded


@dataclass(slots=True, eq=False)
class Node:
    """One thought.

    Attributes:
        text: Its own text, without the line breaks around it.
        tokens: Completion tokens of it.
        reward: Its value as a share of the largest possible one, in [0, 1]; None where it has none.
        is_selected: Whether the recorded search went on from it.
        answer: The answer that it ends with, where recorded.
        children: The thoughts recorded behind it, by text.
        candidates: The same as often as they were recorded, in recorded order.
    """

    text: str
    tokens: int
    reward: float | None = None
    is_selected: bool = True
    answer: str | None = None
    children: dict[str, Node] = field(default_factory=dict)
    candidates: list[Node] = field(default_factory=list)

    @property
    def successor(self) -> Node | None:
        """The thought that the recorded search went on with: the first selected one, else the first."""
        return next((child for child in self.children.values() if child.is_selected), None) or next(
            iter(self.children.values()), None
        )

    def below(self) -> Iterator[Node]:
        """Yield the nodes of its subtree, itself first, selected ones before their siblings."""
        yield self
        for child in sorted(self.children.values(), key=lambda child: not child.is_selected):
            yield from child.below()


class Thought(NamedTuple):
    """A candidate as it was generated, whether or not another said the same.

    Attributes:
        path: Its text behind that of the thoughts it goes on from.
        tokens: Completion tokens of its own text.
        candidate: As recorded.
    """

    path: str
    tokens: int
    candidate: Candidate


def build_tree(record: StepsRecord) -> Node:
    """Return the root of a record's tree; it has no text."""
    root = Node("", 0)
    whole_paths = _has_whole_paths(record)
    parents: list[tuple[Candidate | None, Node]] = [(None, root)]  # what the step before selected, and their nodes
    for step in record.steps:
        nodes: dict[int, Node] = {}  # id() of a candidate -> its node
        for candidate in step.candidates:
            before, parent = _parent_of(candidate, parents, whole_paths=whole_paths)
            nodes[id(candidate)] = _add(record, parent, candidate, before if whole_paths else None)
        parents = [(candidate, nodes[id(candidate)]) for candidate in expanded(step)]
    _add_answers(root, record)
    return root


def thoughts(record: StepsRecord) -> Iterator[Thought]:
    """Yield every candidate of a record in the order of its steps."""
    whole_paths = _has_whole_paths(record)
    parents: list[tuple[Candidate | None, Thought]] = [(None, Thought("", 0, Candidate(thought="", tokens=0)))]
    for step in record.steps:
        said: dict[int, Thought] = {}  # id() of a candidate -> what it is
        for candidate in step.candidates:
            _, parent = _parent_of(candidate, parents, whole_paths=whole_paths)
            if whole_paths:
                thought = Thought(candidate.thought, max(0, candidate.tokens - parent.candidate.tokens), candidate)
            else:
                thought = Thought(parent.path + candidate.thought, candidate.tokens, candidate)
            said[id(candidate)] = thought
            yield thought
        parents = [(candidate, said[id(candidate)]) for candidate in expanded(step)]


_Place = TypeVar("_Place")


def _has_whole_paths(record: StepsRecord) -> bool:
    """Whether the record's thoughts hold their whole paths."""
    return len(record.steps) > 1 and all(_continues(before, step) for before, step in pairwise(record.steps))


def _continues(before: Step, step: Step) -> bool:
    beginnings = tuple(candidate.thought for candidate in expanded(before))
    return all(candidate.thought.startswith(beginnings) for candidate in step.candidates)


def _parent_of(
    candidate: Candidate, parents: list[tuple[Candidate | None, _Place]], *, whole_paths: bool
) -> tuple[Candidate | None, _Place]:
    if parents[0][0] is None:
        return parents[0]
    if not whole_paths:
        return parents[candidate.parent]
    fitting = [each for each in parents if each[0] is not None and candidate.thought.startswith(each[0].thought)]
    return max(fitting, key=lambda each: len(each[0].thought) if each[0] is not None else 0)


def _add(record: StepsRecord, parent: Node, candidate: Candidate, before: Candidate | None) -> Node:
    """Add a candidate below its parent; `before` is the path that its thought repeats.

    One that adds no words is its parent over again: models say so where nothing is left to be said.
    """
    text = candidate.thought.removeprefix("" if before is None else before.thought).strip("\n")
    if not text:
        return parent
    node = parent.children.get(text)
    if node is None:
        node = parent.children[text] = Node(
            text=text,
            tokens=max(1, candidate.tokens - (0 if before is None else before.tokens)),
            reward=None if candidate.value is None else candidate.value / record.value_scale,
            is_selected=False,
            answer=record.as_written(candidate.answer),
        )
    node.is_selected = node.is_selected or candidate.selected
    parent.candidates.append(node)
    return node


def _add_answers(root: Node, record: StepsRecord) -> None:
    """Give the ends of paths the answers of the final candidates with the same text, however its steps are parted."""
    answers = {
        with_single_breaks(text): record.as_written(final.answer)
        for final in record.final
        if final.answer is not None and (text := final.y or final.thought)
    }

    def visit(node: Node, path: str) -> None:
        if node.answer is None:
            node.answer = answers.get(with_single_breaks(path))
            if node.answer is None and not node.children:
                node.answer = answers.get(with_single_breaks(node.text))
        for child in node.children.values():
            visit(child, f"{path}\n{child.text}" if path else child.text)

    if answers:
        visit(root, "")


def with_single_breaks(text: str) -> str:
    """Return a path's text with one line break between its steps, however they were parted."""
    return re.sub(r"\n+", "\n", text.strip("\n"))
