"""When two free texts say the same: one module per similarity, chosen by its type string."""

from dynasor_serve.certaindex.similarities.registry import parse_similarity, similarity_names
from dynasor_serve.certaindex.similarities.similarity import Similarity

__all__ = ["Similarity", "parse_similarity", "similarity_names"]
