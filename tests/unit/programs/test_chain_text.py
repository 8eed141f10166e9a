"""The text of a chain: what its checkpoints say, in order, at a cost that does not grow with all that was said."""

from __future__ import annotations

from math import log2

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.rules.registry import parse_chain_rule
from dynasor_serve.programs.chain import Chain, ChainShape
from dynasor_serve.programs.events import CallFinished, Checkpointed
from dynasor_serve.programs.query import Branch, ProbeParameters

SHAPE = ChainShape(parse_chain_rule("even"), ProbeParameters(), max_tokens=10**9, answer_tokens=0)


def checkpointed(texts: list[str]) -> Chain:
    chain = Chain.start(SHAPE, AnswerType.NUMBER)
    for number, text in enumerate(texts, start=1):
        chain = chain.checkpointed(Checkpointed(Branch(0), "1.1", number, text))
    return chain


@given(texts=st.lists(st.text(max_size=40)), last=st.text())
def test_a_chain_says_what_its_checkpoints_say(texts: list[str], last: str) -> None:
    chain = checkpointed(texts)
    assert chain.text == "".join(texts)
    assert chain.thinking_call().continuation == "".join(texts)
    assert chain.finished(CallFinished(Branch(0), "1.1", None, last, tokens=1)).text == "".join((*texts, last))


@given(texts=st.lists(st.text(min_size=1, max_size=40), min_size=1))
def test_a_checkpoint_copies_little_of_what_was_said_before(texts: list[str]) -> None:
    chain = checkpointed(texts)
    assert len(chain.parts) <= log2(len(chain.text)) + 1


def test_ten_thousand_checkpoints_copy_each_character_a_few_times() -> None:
    chain, copied = Chain.start(SHAPE, AnswerType.NUMBER), 0
    for number in range(1, 10_001):
        before = chain.parts
        chain = chain.checkpointed(Checkpointed(Branch(0), "1.1", number, "word"))
        kept = sum(map(len, chain.parts[:-1]))
        assert chain.parts[:-1] == before[: len(chain.parts) - 1], "a part that stays is the same object"
        copied += len(chain.text) - kept
    assert copied < 20 * len(chain.text), "once for each doubling, which are 15"
