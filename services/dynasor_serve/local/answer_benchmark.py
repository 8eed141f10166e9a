"""What it costs to compare answers, measured: by their keys in a tracker, and by algebra in the evaluator's worker."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.evaluator.equality_pool import Equality, EqualityPool

SAMPLES = 16  # answers of one program
_DIFFERENT = 4  # spellings of a vote

# Sixteen answers of each type, as samples of one question give them; `{n}` differs from program to program, so that no
# cache has seen them.
_DECIDED = {
    AnswerType.NUMBER: (
        "{n}", "{n}.0", r"\${n}", "{n} cm", "{n}%", r"{n}\text{{ apples}}", "{n}e3", "{n}/7", r"\frac{{{n}}}{{7}}",
        "{n},500", "1{n}", "-{n}", "{n} 1/2", "+{n}", "x = {n}", "{n}.5",
    ),
    AnswerType.MATH: (
        "{n}", r"\frac{{{n}}}{{2}}", "({n}, 3)", r"\left({n},3\right)", r"\{{{n},2\}}", r"\{{2,{n}\}}", "{n}, 2",
        r"(-\infty,{n})\cup({n},\infty)", r"x\ne {n}", r"\begin{{pmatrix}}1&{n}\\3&4\end{{pmatrix}}", "x={n}",
        r"\pm {n}", r"{n}\text{{ cm}}", r"{n}\%", "x<{n}", r"\text{{even}}",
    ),
    AnswerType.CHOICE: (
        "A", "B", "(A)", r"\text{{C}}", "A, C", "AC", "b", "D", "(B)", "A", "A", "E", "**A**", "J", "C and A", "{n}",
    ),
    AnswerType.TEXT: tuple(f"The {word} of {{n}}." for word in ("sum", "product", "square", "root")) * 4,
}  # fmt: skip
# Sixteen spellings of four values that only algebra tells apart.
_ALGEBRA = (
    "(x+{n})^2", "x^2+2\\cdot {n}x+{n}^2", "(x+{n})(x+{n})", "(-x-{n})^2",
    r"\frac{{1}}{{\sqrt{{{n}}}}}", r"\frac{{\sqrt{{{n}}}}}{{{n}}}", "{n}^{{-1/2}}", r"\sqrt{{\frac{{1}}{{{n}}}}}",
    r"\frac{{x}}{{x+{n}}}", r"1-\frac{{{n}}}{{x+{n}}}", r"\frac{{2x}}{{2x+2\cdot {n}}}", r"x(x+{n})^{{-1}}",
    r"{n}\pi+{n}", r"{n}(\pi+1)", r"{n}+\pi\cdot {n}", r"\frac{{2\cdot {n}\pi+2\cdot {n}}}{{2}}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """How fast answers are compared: per second of CPU.

    Attributes:
        different_per_second: clusterings by answer type, of sixteen answers that were never seen before and are all
            written differently.
        voted_per_second: of sixteen answers that were never seen before, in four spellings, as votes mostly are.
        latex_answers_per_second: new answers that take algebra, each compared with the clusters of its program.
        pairs_per_answer: what that took.
        wrongly_told: of these answers, those in a cluster that is not theirs.
    """

    different_per_second: dict[str, float]
    voted_per_second: dict[str, float]
    latex_answers_per_second: float
    pairs_per_answer: float
    wrongly_told: int

    def as_json(self) -> str:
        return json.dumps(asdict(self))


async def measure_answers(seconds: float) -> AnswerReport:
    """Measures each for about so long."""
    clusterings = {kind.value: _clusterings(kind, SAMPLES, seconds) for kind in _DECIDED}
    voted = {kind.value: _clusterings(kind, _DIFFERENT, seconds) for kind in _DECIDED}
    idle = await _algebra(0.0)
    busy = await _algebra(seconds)
    return AnswerReport(
        clusterings,
        voted,
        latex_answers_per_second=busy.answers / max(busy.cpu_seconds - idle.cpu_seconds, 1e-9),
        pairs_per_answer=busy.pairs / max(busy.answers, 1),
        wrongly_told=busy.wrong,
    )


@dataclass(slots=True)
class _Work:
    """What a pool has done in its life, and the CPU that it took, of its worker and of this process."""

    answers: int = 0
    pairs: int = 0
    wrong: int = 0
    cpu_seconds: float = 0.0


async def _algebra(seconds: float) -> _Work:
    work = _Work(cpu_seconds=-_cpu_seconds())
    async with EqualityPool(workers=1, timeout_seconds=20.0) as pool:
        await pool.decide([("x", "x+y")])  # wait until it is warm
        began = time.perf_counter()
        for program in _programs(_ALGEBRA):
            if time.perf_counter() - began >= seconds:
                break
            clusters = AnswerClusters.empty(AnswerType.MATH)
            for answer in program:
                clusters = clusters.add(answer)
                questions = clusters.questions()
                told = await pool.decide(questions)
                equal = [pair for pair, decision in zip(questions, told, strict=True) if decision is Equality.EQUAL]
                clusters = clusters.decided(equal, set(questions).difference(equal))
                work.pairs += len(questions)
            work.answers += SAMPLES
            work.wrong += sum(label != 4 * (place // 4) for place, label in enumerate(clusters.labels))
    work.cpu_seconds += _cpu_seconds()  # the pool has waited for its worker: its time counts
    return work


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _clusterings(kind: AnswerType, different: int, seconds: float) -> float:
    began = time.process_time()
    for done, program in enumerate(_programs(_DECIDED[kind])):
        if time.process_time() - began > seconds:
            return done / (time.process_time() - began)
        clusters = AnswerClusters.empty(kind)
        first = done % SAMPLES
        spellings = [program[(first + step) % SAMPLES] for step in range(different)]
        for sample in range(SAMPLES):
            clusters = clusters.add(spellings[sample % different])
    raise AssertionError("programs do not end")


def _programs(spellings: tuple[str, ...]) -> Iterator[list[str]]:
    """Yields the answers of one program after another."""
    for number in count(11, 2):
        yield [spelling.format(n=number) for spelling in islice(spellings, SAMPLES)]
