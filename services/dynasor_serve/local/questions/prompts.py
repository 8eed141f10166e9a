r"""The one place where a question becomes a prompt.

`record` sends these prompts to a real engine and keeps them in the trace; `dynasor demo` and the examples send the
same, so that the replay engine finds the recorded answers by the exact prompt. A change of one character here makes
the traces unreachable: record them again (`tests/unit/local` holds the two equal).

The prompts go to `/v1/completions` as plain text, without a chat template: asked with examples in this form,
SmolLM2-135M is right more than twice as often as with examples as turns of a chat.
"""

from __future__ import annotations

from dataclasses import dataclass

_SHORT_EXAMPLES = (
    ("What is the capital of Italy?", "Rome"),
    ("What is 3 + 4?", "7"),
    ("What is the opposite of up?", "Down"),
    ("How many legs does a horse have?", "4"),
    ("What is the capital of Portugal?", "Lisbon"),
    ("What is 6 times 3?", "18"),
    ("Which gas do animals breathe out?", "Carbon dioxide"),
    ("In which year did the First World War begin?", "1914"),
    ("Who wrote Don Quixote?", "Miguel de Cervantes"),
    ("How many wheels does a car have?", "4"),
    ("What color is snow?", "White"),
    ("What is 15 - 9?", "6"),
)

_STEP_BY_STEP_EXAMPLES = (
    (
        "Paul has 7 oranges. He gives 2 oranges to Kim and then buys 10 more. How many oranges does he have?",
        (
            "Let us work step by step.\n"
            "Step 1: Paul starts with 7 oranges.\n"
            "Step 2: He gives 2 oranges to Kim, so he has 7 - 2 = 5 oranges.\n"
            "Step 3: He buys 10 more oranges, so he has 5 + 10 = 15 oranges.\n"
            "The answer is \\boxed{15}."
        ),
    ),
    (
        "A pack holds 8 bottles. How many bottles are in 3 packs?",
        (
            "Let us work step by step.\n"
            "Step 1: One pack holds 8 bottles.\n"
            "Step 2: Three packs hold 3 times 8 bottles, and 3 * 8 = 24.\n"
            "The answer is \\boxed{24}."
        ),
    ),
    (
        "What is 46 + 37?",
        (
            "Let us work step by step.\n"
            "Step 1: Add the tens: 40 + 30 = 70.\n"
            "Step 2: Add the ones: 6 + 7 = 13.\n"
            "Step 3: Add both: 70 + 13 = 83.\n"
            "The answer is \\boxed{83}."
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How questions of one kind are asked: the examples before the question, and how the answer is sampled."""

    name: str
    examples: tuple[tuple[str, str], ...]
    opening: str
    """What stands between the question and the completion."""
    stop: tuple[str, ...]
    """Strings that end the completion and are not part of it."""
    max_tokens: int
    temperature: float = 0.8

    def prompt(self, question: str) -> str:
        """The exact text sent to the engine; the completion is the answer."""
        shown = "".join(f"Question: {asked}\n{self.opening} {answer}\n\n" for asked, answer in self.examples)
        return f"{shown}Question: {question.strip()}\n{self.opening}"


SHORT_ANSWER = PromptStyle(
    name="short-answer", examples=_SHORT_EXAMPLES, opening="Answer:", stop=("\n",), max_tokens=16
)
"""One line with the bare answer."""

STEP_BY_STEP = PromptStyle(
    name="step-by-step",
    examples=_STEP_BY_STEP_EXAMPLES,
    opening="Answer:",
    stop=("\n\n", "Question:"),
    max_tokens=256,
)
"""A few lines of work that end in `The answer is \\boxed{N}.`"""

PARTED_STEPS = PromptStyle(
    name="parted-steps",
    examples=tuple((asked, answer.replace("\n", "\n\n")) for asked, answer in _STEP_BY_STEP_EXAMPLES),
    opening="Answer:",
    stop=("Question:",),
    max_tokens=256,
)
"""As step by step, with a blank line between the steps: where searches part their trees."""

STYLES = {style.name: style for style in (SHORT_ANSWER, STEP_BY_STEP, PARTED_STEPS)}
