"""`token-set`: the same words, in whatever order."""

import re
from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import parameter

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Takes texts for the same whose sets of words and signs overlap by `threshold` (the Jaccard index).

    Source: P. Jaccard 1912, "The distribution of the flora in the alpine zone".
    """

    name: ClassVar[str] = "token-set"
    threshold: float = parameter(0.8, minimum=0.0, maximum=1.0, exclusive=("minimum",), doc="least overlap")

    def says_same(self, left: str, right: str) -> bool:
        """Compare sets of words."""
        first, second = set(_TOKEN.findall(left)), set(_TOKEN.findall(right))
        return len(first & second) >= self.threshold * len(first | second)
