"""`majority-locked`: arithmetic, not statistics. Stops when the samples to come cannot change the winner."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class MajorityLocked(Parameterised):
    """Stops when no rival can win even if it gets every remaining sample. It never changes the answer.

    A rival is any other answer, one not seen so far included; a tie goes to the answer seen first. Rivals in
    `undecided` clusters may still turn out equal, so together they count as one rival, seen when its first was.
    """

    name: ClassVar[str] = "majority-locked"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})

    def verdict(self, votes: Votes) -> Verdict:
        """Judge all arrivals."""
        leader = votes.leader
        if leader is None:
            return going_on(f"no answer in {votes.finished} of {votes.cap} samples")
        sizes = votes.answer_sizes
        rival, rival_wins_tie = _strongest_rival(sizes, leader, votes.undecided)
        reach = rival + votes.remaining
        score = f"it has {sizes[leader]} of {votes.cap}, the strongest rival can reach {reach}"
        if sizes[leader] > reach or (sizes[leader] == reach and not rival_wins_tie):
            return certain(f"the leader cannot be outvoted: {score}")
        return going_on(f"the leader can still be outvoted: {score}")

    def describe(self) -> str:
        """Return the rule in words."""
        return "Stops when the remaining samples cannot change the winner; loses no accuracy."


def _strongest_rival(sizes: dict[int, int], leader: int, undecided: frozenset[int]) -> tuple[int, bool]:
    """Return the votes of the strongest rival, and whether it wins a tie; (0, False) is an answer not seen so far."""
    strongest = (0, False)
    merged, merged_wins_tie = 0, False
    seen_first = True  # `sizes` is in the order first seen: those before the leader win a tie
    for label, size in sizes.items():
        if label == leader:
            seen_first = False
        elif label in undecided:
            merged += size
            merged_wins_tie |= seen_first
        else:
            strongest = max(strongest, (size, seen_first))
    return max(strongest, (merged, merged_wins_tie))
