"""`edit-ratio`: few characters to insert or delete."""

from dataclasses import dataclass
from typing import ClassVar

from rapidfuzz.distance import Indel

from dynasor_serve.certaindex.rules.parameters import parameter


@dataclass(frozen=True, slots=True)
class EditRatio:
    """Takes texts for the same of whose characters at most 1 − `threshold` are inserted or deleted.

    Source: the normalised indel similarity, 1 − d/(|a| + |b|), as `difflib` and RapidFuzz know it.
    """

    name: ClassVar[str] = "edit-ratio"
    threshold: float = parameter(0.9, minimum=0.0, maximum=1.0, exclusive=("minimum",), doc="least similarity")

    def says_same(self, left: str, right: str) -> bool:
        """Count insertions and deletions."""
        return Indel.normalized_similarity(left, right, score_cutoff=self.threshold) >= self.threshold
