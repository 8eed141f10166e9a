"""How a half-finished chain is asked for its answer: the built-in prompts, and a user's own.

The wording matters: two wordings on the same prefix disagree on half of the answers early in a chain.
"""

from __future__ import annotations

from typing import Final

from dynasor_serve.certaindex.probe_schedule import REFLECTION_MARKS, ProbeSchedule
from dynasor_serve.programs.calls import ProbePrompt, Watch
from dynasor_serve.programs.query import ProbeParameters

# arXiv 2412.20993v2, §2.1; sampled as its research code does.
_DYNASOR: Final = ProbePrompt(
    suffix="... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{",
    opened_box=True,
    temperature=0.6,
)
# DEER, arXiv 2504.15895: a trial answer at a reflection mark, decoded greedily.
_DEER: Final = ProbePrompt(suffix="\n**Final Answer**\n\\boxed{", opened_box=True)

BUILT_IN: Final = {"dynasor": _DYNASOR, "deer": _DEER}
DEFAULT: Final = "deer"


def probe_prompt(parameters: ProbeParameters) -> ProbePrompt:
    """The prompt that a query names, or its own text."""
    known = BUILT_IN.get(parameters.prompt or DEFAULT)
    if known is not None:
        return ProbePrompt(
            known.suffix, known.opened_box, known.closes_thinking, parameters.max_tokens, known.temperature
        )
    suffix = parameters.prompt
    opened_box = suffix.rstrip().endswith(("\\boxed{", "\\fbox{"))
    return ProbePrompt(suffix, opened_box, closes_thinking=False, max_tokens=parameters.max_tokens)


def watch(parameters: ProbeParameters, schedule: ProbeSchedule, position: int) -> Watch:
    """How a chain is looked at: as its rule likes, unless the query says otherwise.

    Args:
        schedule: the rule's.
        position: tokens of the chain so far.
    """
    interval = schedule.interval if parameters.interval is None else parameters.interval
    marks = schedule.marks
    if parameters.marks is not None:
        marks = (schedule.marks or REFLECTION_MARKS) if parameters.marks else ()
    wanted = ProbeSchedule(interval=interval, marks=marks, min_gap=schedule.min_gap)
    return Watch(schedule=wanted, probe=probe_prompt(parameters) if interval or marks else None, position=position)
