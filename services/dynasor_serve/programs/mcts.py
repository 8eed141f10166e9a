"""Monte Carlo tree search over the steps of a solution, with language models as policy and as judge.

Sources: RAP (arXiv 2305.14992; github maitrix-org/llm-reasoners, `algorithm/mcts.py`), from which are the selection by
UCT with a step's own judgement until it is visited, its weight w = 1 and 4 steps per expansion; and TS-LLM (arXiv
2309.17179; github waterhorse1/LLM_Tree_Search), from which are the depth of 8 and the aggregation by the best reward
(its ORM-Max). Knob: rollouts. Certaindex: the mean reward of the rollouts (arXiv 2412.20993, §3.1, R = mean); a rule
sees H̃ over their answers, too. Aggregation: the answer of the best reward.

One rollout:

1. selection: from the root down, to the child with the largest UCT value
   mean + w · sqrt(ln N(parent) / max(1, N(child))), where the mean is the child's own judgement before its first visit;
2. expansion: a node that has been visited, and the root at once, gets `expansions` candidate steps, each judged; the
   rollout goes on to the best of them. A node whose children are all complete and taken is expanded again;
3. simulation: one completion from there to the end of the solution, judged. A candidate that is complete needs none;
4. backpropagation: the reward counts for every node on the way.

`width` rollouts are under way at once. One that is under way counts as a visit with reward 0 (virtual loss; Chaslot et
al. 2008), and a node that is being expanded is passed over. A rollout waits for its own candidates only, and only at
the start, when there is nothing but the root, do others wait with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar, Self

from dynasor_serve.certaindex.gain import gain_of_best
from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.rule import Evidence, VoteRule
from dynasor_serve.programs.algorithm import Abandoned, Aggregate, Algorithm, AlgorithmParameters, Assessment
from dynasor_serve.programs.budget import Reserve
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import AnswersCompared, CallFinished, Rewarded
from dynasor_serve.programs.judged_paths import JudgedPaths, parse_rule_over_paths
from dynasor_serve.programs.query import Branch, Query, RewardSource
from dynasor_serve.programs.rewards import reward_call
from dynasor_serve.programs.rollout import Rollout, Stage
from dynasor_serve.programs.selection import Selection
from dynasor_serve.programs.tree import Tree, TreeShape, solution, step_text


@dataclass(frozen=True, slots=True)
class MctsParameters(AlgorithmParameters):
    """Searches a tree of steps, guided by the rewards of solutions that are tried out from them."""

    name: ClassVar[str] = "mcts"
    knob: ClassVar[str] = "rollouts"
    watches: ClassVar[Evidence] = Evidence.VOTES
    # arXiv 2412.20993, table 3 (GSM8K): three rollouts that agree, and are believed.
    default_rule: ClassVar[str] = "static-threshold:threshold=0.99,detect=3 & reward-threshold:mean=0.4,detect=3"
    default_max_tokens: ClassVar[int] = 1024
    needs_reward: ClassVar[bool] = True
    rollouts: int = parameter(16, minimum=1, maximum=256, doc="the cap: most solutions tried out")
    expansions: int = parameter(4, minimum=1, maximum=16, doc="candidate steps per expansion")
    exploration: float = parameter(1.0, minimum=0, maximum=100, doc="w: the weight of what is seldom visited, in UCT")
    width: int = parameter(4, minimum=1, maximum=64, doc="most rollouts under way at once")
    max_depth: int = parameter(8, minimum=1, maximum=64, doc="most steps before a rollout runs to its end")
    step_tokens: int = parameter(256, minimum=1, maximum=100_000, doc="most tokens of one step")

    def start(self, query: Query) -> Mcts:
        """See `AlgorithmParameters.start`."""
        rule = parse_rule_over_paths(query.rule)
        shape = TreeShape.of(query, step_tokens=self.step_tokens, max_depth=self.max_depth)
        judged = JudgedPaths.start(query.answer_type)
        return Mcts(self, rule, judged, Tree(shape), reserve=Reserve.of(query)).advanced()


@dataclass(frozen=True, slots=True)
class Mcts(Algorithm):
    """The state of one MCTS program.

    With M = `rollouts` · `expansions`, no fewer than the nodes there can be, call i says node i, call M + i judges it,
    call 2M + j completes rollout j and call 2M + `rollouts` + j judges it. Expansion k asked for the `expansions` nodes
    from k · `expansions` on.
    """

    shares_prefixes: ClassVar[bool] = True

    parameters: MctsParameters
    rule: VoteRule
    judged: JudgedPaths  # a path's number is that of its rollout
    tree: Tree
    reserve: Reserve  # its spender is a rollout
    rollouts: tuple[Rollout, ...] = ()
    expanders: tuple[int, ...] = ()  # the rollout of each expansion
    under_way: frozenset[int] = frozenset()  # rollouts
    lost: frozenset[int] = frozenset()  # rollouts

    @property
    def cap(self) -> int:
        return self.parameters.rollouts

    # --- what should run ---

    def wanted(self, abandoned: Abandoned) -> tuple[Branch, ...]:
        if self.reserve.spender is not None:
            return (Branch(self._completion(self.reserve.spender)),)
        return tuple(chain.from_iterable(self.rollouts[number].calls for number in sorted(self.under_way)))

    def call(self, branch: Branch) -> CallPlan:
        is_judging, is_completion, number = self._read(branch)
        if not is_completion:
            return self.tree.judging_call(number) if is_judging else self.tree.step_call(number)
        if is_judging:
            return reward_call(self.tree.shape.reward, self._path(number), is_complete=True)
        node = self.rollouts[number].node
        left = self.tree.shape.max_tokens - self.tree.tokens(node)
        return CallPlan(continuation=self.tree.path(node), max_tokens=left)

    def unverified(self) -> tuple[tuple[Branch, str], ...]:
        return tuple(chain.from_iterable(self.rollouts[number].unverified for number in sorted(self.under_way)))

    # --- what has happened ---

    def observe(self, evidence: CallFinished) -> Self:
        is_judging, is_completion, number = self._read(evidence.branch)
        if is_completion:
            search = self.with_tokens(number, evidence.tokens)
            if is_judging:
                return search.with_judged(number, evidence.reward or 0.0)
            return search.with_completion(number, evidence)
        search = self.with_tokens(self._owner(number), evidence.tokens)
        if is_judging:
            return search.with_node(number, search.tree.judged(number, evidence.reward or 0.0))
        if self.tree.nodes[number].is_lost:  # too late: the search has gone on without it
            return search
        tree = search.tree.said(number, evidence)
        reserve = Reserve() if tree.nodes[number].answer is not None else self.reserve
        return replace(search, reserve=reserve).with_node(number, tree)

    def rewarded(self, event: Rewarded) -> Self:
        is_judging, is_completion, number = self._read(event.branch)
        if is_judging:
            return self
        if is_completion:
            return self.with_judged(number, event.reward)
        if not self.tree.awaits_verifier(number):
            return self
        return self.with_node(number, self.tree.judged(number, event.reward))

    def given_up(self, branch: Branch) -> Self:
        is_judging, is_completion, number = self._read(branch)
        if is_completion:
            if is_judging:
                return self.with_judged(number, 0.0)
            reserve = self.reserve.settled(number, is_answered=False)
            return replace(self, reserve=reserve).with_stage(number, Stage.LOST).advanced()
        return self.with_node(number, self.tree.judged(number, 0.0) if is_judging else self.tree.lost(number))

    def compared(self, event: AnswersCompared) -> Self:
        return replace(self, judged=self.judged.compared(event))

    def hastened(self, abandoned: Abandoned) -> Self | None:
        """One rollout goes on to the end of its solution: one that is on its way there, else the furthest."""
        if not self.reserve.wants_spender:
            return None
        search = self
        for number, rollout in enumerate(self.rollouts):
            if rollout.stage is Stage.JUDGING:  # it has no answer, and others may wait for its place
                search = search.with_judged(number, 0.0)
        progress = {
            number: (rollout.stage is Stage.COMPLETING, search.tree.tokens(rollout.node), -number)
            for number, rollout in ((number, search.rollouts[number]) for number in search.under_way)
        }
        if not progress:
            return None
        furthest = max(progress, key=lambda number: progress[number])
        return replace(search.cut_short(furthest), reserve=self.reserve.spent_by(furthest))

    # --- how it stands ---

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        return self.judged.clusters.questions()

    def assess(self, abandoned: Abandoned) -> Assessment:
        votes = self.judged.votes(self._reachable)
        return Assessment(
            verdict=self.rule.verdict(votes),
            certaindex=votes.mean_reward or 0.0,
            samples=votes.finished,
            exhausted=votes.remaining <= 0 and not self.open_comparisons(),
        )

    def aggregate(self) -> Aggregate:
        votes = self.judged.clusters.ranked()
        chosen = self.judged.best()
        if chosen is not None and chosen.answer is not None:
            return Aggregate(chosen.answer, self._path(chosen.path), votes)
        for number, rollout in enumerate(self.rollouts):  # stopped before a path with an answer was judged
            if rollout.answer is not None:
                return Aggregate(rollout.answer, self._path(number), votes, is_judged=False)
        for number, node in enumerate(self.tree.nodes):
            if node.answer is not None:
                return Aggregate(node.answer, self.tree.path(number), votes, is_judged=False)
        return Aggregate(None, self._path(chosen.path) if chosen else "", votes)

    def remaining(self, abandoned: Abandoned) -> int:
        return self._reachable - self.judged.count

    def expected_gain(self, assessment: Assessment, remaining: int) -> float:
        return gain_of_best(max(self.judged.rewards, default=0.0), self.judged.count, remaining)

    def cost_at_cap(self, tokens: int, abandoned: Abandoned) -> float | None:
        """Every rollout that is left, and what is left of one under way, costs what one has cost on average."""
        judged = [rollout.tokens for rollout in self.rollouts if rollout.stage is Stage.JUDGED]
        if not judged:
            return None
        mean = sum(judged) / len(judged)
        begun = sum(max(0.0, mean - self.rollouts[number].tokens) for number in self.under_way)
        return tokens + begun + mean * (self.cap - len(self.rollouts))

    # --- numbers ---

    @property
    def _most_nodes(self) -> int:
        return self.parameters.rollouts * self.parameters.expansions

    def _completion(self, rollout: int) -> int:
        return 2 * self._most_nodes + rollout

    def _read(self, branch: Branch) -> tuple[bool, bool, int]:
        """Whether a call judges, whether it is about a completion, and the number of its node or rollout."""
        if branch < 2 * self._most_nodes:
            is_judging, number = divmod(branch, self._most_nodes)
            return bool(is_judging), False, number
        is_judging, number = divmod(branch - 2 * self._most_nodes, self.cap)
        return bool(is_judging), True, number

    def _owner(self, candidate: int) -> int:
        """The rollout whose expansion asked for a node."""
        return self.expanders[candidate // self.parameters.expansions]

    @property
    def _has_verifier(self) -> bool:
        return self.tree.shape.reward.source is RewardSource.VERIFIER

    @property
    def _reachable(self) -> int:
        """Rollouts that are judged or may still be."""
        return self.cap - len(self.lost)

    def _path(self, rollout: int) -> str:
        """The text of a rollout's solution."""
        return self.tree.path(self.rollouts[rollout].node) + self.rollouts[rollout].text

    # --- steps ---

    def with_rollout(self, number: int, rollout: Rollout) -> Self:
        """With a rollout as it is now, new ones included. What it waits for is found here: it is asked for often."""
        calls, unverified = self._awaited(number, rollout)
        known = replace(rollout, calls=calls, unverified=unverified)
        this = frozenset((number,))
        return replace(
            self,
            rollouts=(*self.rollouts[:number], known, *self.rollouts[number + 1 :]),
            under_way=self.under_way | this if rollout.stage.is_under_way else self.under_way - this,
            lost=self.lost | this if rollout.stage is Stage.LOST else self.lost,
        )

    def _awaited(self, number: int, rollout: Rollout) -> tuple[tuple[Branch, ...], tuple[tuple[Branch, str], ...]]:
        completion = Branch(self._completion(number))
        match rollout.stage:
            case Stage.EXPANDING:
                return self._awaited_of(rollout.candidates)
            case Stage.COMPLETING:
                return (completion,), ()
            case Stage.JUDGING if self._has_verifier:
                return (), ((completion, self.tree.path(rollout.node) + rollout.text),)
            case Stage.JUDGING:
                return (Branch(completion + self.cap),), ()
            case _:
                return (), ()

    def _awaited_of(self, candidates: tuple[int, ...]) -> tuple[tuple[Branch, ...], tuple[tuple[Branch, str], ...]]:
        calls, unverified = [], []
        for candidate in candidates:
            node = self.tree.nodes[candidate]
            if node.awaits_text:
                calls.append(Branch(candidate))
            elif self.tree.awaits_verifier(candidate):
                unverified.append((Branch(candidate), self.tree.path(candidate)))
            elif node.awaits_reward:
                calls.append(Branch(self._most_nodes + candidate))
        return tuple(calls), tuple(unverified)

    def with_tokens(self, number: int, tokens: int) -> Self:
        rollout = self.rollouts[number]
        return self.with_rollout(number, replace(rollout, tokens=rollout.tokens + tokens))

    def with_stage(self, number: int, stage: Stage) -> Self:
        return self.with_rollout(number, replace(self.rollouts[number], stage=stage))

    def with_node(self, number: int, tree: Tree) -> Self:
        """With a candidate as it is now in the tree; the last one that is known ends its expansion."""
        owner = self._owner(number)
        rollout = self.rollouts[owner]
        search = replace(self, tree=tree).with_rollout(owner, rollout)
        if rollout.stage is Stage.EXPANDING and all(tree.nodes[each].is_known for each in rollout.candidates):
            search = search.gone_on(owner)
        return search.advanced()

    def with_completion(self, number: int, evidence: CallFinished) -> Self:
        """Takes the end of a solution. One that was cut off without an answer is none: its reward is 0, unasked."""
        rollout = self.rollouts[number]
        if rollout.stage is not Stage.COMPLETING:  # too late: it was given up
            return self
        text = step_text(evidence)
        answer, ended = solution(self._path(number) + text, evidence, self.tree.shape)
        reserve = self.reserve.settled(number, is_answered=answer is not None)
        search = self.with_rollout(number, replace(rollout, text=text, answer=answer, stage=Stage.JUDGING))
        search = replace(search, reserve=reserve)
        return search if ended else search.with_judged(number, 0.0)

    def with_judged(self, number: int, reward: float) -> Self:
        """Takes the reward of a solution; the first holds."""
        rollout = self.rollouts[number]
        if rollout.stage is not Stage.JUDGING:
            return self
        return self.settled(number, rollout, reward).advanced()

    def settled(self, number: int, rollout: Rollout, reward: float) -> Self:
        """Ends a rollout."""
        search = self.with_rollout(number, replace(rollout, stage=Stage.JUDGED, reward=reward))
        return replace(search, judged=self.judged.with_judged(number, rollout.answer, reward, rollout.tokens))

    def advanced(self) -> Self:
        """Starts as many rollouts as there is room for."""
        search = self
        while search.has_room:
            selection = search.selection()
            if not selection.is_open(None):
                break
            search = search.begun(selection)
        return search

    @property
    def has_room(self) -> bool:
        """Whether another rollout may begin."""
        return len(self.rollouts) < self.cap and len(self.under_way) < self.parameters.width

    def gone_on(self, number: int) -> Self:
        """A rollout's candidates are known: it goes on to the best of them, or is lost where there is none."""
        known = [candidate for candidate in self.rollouts[number].candidates if not self.tree.nodes[candidate].is_lost]
        if not known:
            return self.with_stage(number, Stage.LOST)
        return self.placed(
            number, max(known, key=lambda candidate: (self.tree.nodes[candidate].reward or 0.0, -candidate))
        )

    def begun(self, selection: Selection) -> Self:
        """A new rollout selects its node."""
        node: int | None = None
        number = len(self.rollouts)
        while not selection.is_tried_out(node):
            children = selection.open_children(node)
            if not children:
                candidates = range(len(self.tree.nodes), len(self.tree.nodes) + self.parameters.expansions)
                tree = self.tree.grown(node, self.parameters.expansions)
                search = replace(self, tree=tree, expanders=(*self.expanders, number))
                return search.with_rollout(number, Rollout(node, Stage.EXPANDING, tuple(candidates)))
            node = selection.best([child for child in children if selection.is_open(child)], node)
        return self.with_rollout(number, Rollout(node, Stage.COMPLETING)).placed(number, node)

    def cut_short(self, number: int) -> Self:
        """A rollout goes on to the end from the best candidate that is known now, or from where it expands."""
        rollout = self.rollouts[number]
        if rollout.stage is not Stage.EXPANDING:
            return self
        nodes = {candidate: self.tree.nodes[candidate] for candidate in rollout.candidates}
        known = [candidate for candidate, node in nodes.items() if node.text is not None and not node.is_complete]
        return self.placed(
            number, max(known, key=lambda candidate: (self.tree.reward(candidate), -candidate), default=rollout.node)
        )

    def placed(self, number: int, node: int | None) -> Self:
        """A rollout is to be completed from a node. One that is complete already, and judged, settles it."""
        rollout = replace(self.rollouts[number], node=node, stage=Stage.COMPLETING)
        chosen = None if node is None else self.tree.nodes[node]
        if chosen is None or not chosen.is_complete or chosen.reward is None:
            return self.with_rollout(number, rollout)
        return self.settled(number, replace(rollout, answer=chosen.answer), chosen.reward)

    def selection(self) -> Selection:
        """What the search knows of its nodes now."""
        return Selection.of(
            self.tree,
            self.rollouts,
            len(self.expanders),
            expansions=self.parameters.expansions,
            max_depth=self.parameters.max_depth,
            exploration=self.parameters.exploration,
        )
