"""Builds the trials of a chain from one character each."""

from dynasor_serve.certaindex.trials import Trials


def chain(
    answers: str, *, confidences: tuple[float | None, ...] | None = None, undecided: str = "", interval: int = 64
) -> Trials:
    """Trials `interval` tokens apart; `-` is an empty answer, and a capital is its small letter said hesitantly."""
    names = {name: label for label, name in enumerate(dict.fromkeys(answers.lower().replace("-", "")))}
    return Trials(
        labels=tuple(names.get(answer.lower()) for answer in answers),
        positions=tuple(range(interval, interval * (len(answers) + 1), interval)),
        confidences=confidences if confidences is not None else (None,) * len(answers),
        hesitant=tuple(answer.isupper() for answer in answers),
        undecided=frozenset(names[name] for name in undecided),
    )
