"""Answers: read from text (`extract`), and compared (`canonical`)."""

from dynasor_serve.certaindex.answers.answer_type import AnswerType
from dynasor_serve.certaindex.answers.canonical import Canonical, canonical, equal_by_keys
from dynasor_serve.certaindex.answers.extraction import (
    closing_brace,
    extract,
    extract_announced,
    extract_in_open_box,
)

__all__ = [
    "AnswerType",
    "Canonical",
    "canonical",
    "closing_brace",
    "equal_by_keys",
    "extract",
    "extract_announced",
    "extract_in_open_box",
]
