"""What a similarity is."""

from typing import ClassVar, Protocol


class Similarity(Protocol):
    """Answers: do two texts say the same?

    A similarity is a frozen dataclass whose fields are declared with `rules.parameters.parameter`, like a rule. The
    evaluator asks it, in a thread: it may take its time, but it does not hang, whatever the texts are.
    """

    name: ClassVar[str]
    """The type string's name."""

    def says_same(self, left: str, right: str) -> bool:
        """Return whether they do.

        Symmetric. Of texts over 1,000 characters it sees the first 966 and a digest.

        Args:
            left, right: case, spaces, typographic variants, quotes around them and closing punctuation folded.
        """
        ...
