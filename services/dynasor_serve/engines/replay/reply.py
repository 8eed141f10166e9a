"""Where in a prompt do the assistant's words begin? Pure.

A rendered chat tells (`chat_template`), and so does a prompt that begins with the recorded one. Elsewhere the words
begin where the text behind marker or question begins to be a recorded one.
"""

from __future__ import annotations

from dynasor_serve.engines.replay.chat_template import Prompt
from dynasor_serve.engines.replay.play import Play
from dynasor_serve.engines.replay.records import Record
from dynasor_serve.engines.replay.suffixes import GO_ON, readings
from dynasor_serve.engines.replay.trace_index import behind_marker


def reply_text(prompt: Prompt, record: Record, play: Play) -> str | None:
    """Return what the assistant has said in a prompt, and what is asked behind that; empty for a fresh call.

    Args:
        prompt: One that means this record.
        record: Whose prompt or question it may begin with.
        play: Knows the recorded texts.

    Returns:
        None where the prompt begins with the record's question and goes on in words that are not recorded: it is
        another question.
    """
    if prompt.reply_at is not None:
        return prompt.text[prompt.reply_at :]
    if record.prompt is not None and prompt.text.startswith(record.prompt):
        said = prompt.text[len(record.prompt) :]
        return said if said.strip() else ""
    marked = behind_marker(prompt.text)
    region = prompt.text[marked:] if marked else _behind_question(prompt.text, record)
    start = play.find_start(region)
    if start is not None:
        return region[start:]
    *_, reading = readings(region)
    if reading.question != GO_ON:  # asked before the first word
        return region[len(reading.said) :]
    return "" if marked or not region.strip() else None


def _behind_question(text: str, record: Record) -> str:
    text = text.lstrip()
    for known in (record.prompt, record.question):
        if known is not None and text.startswith(known.strip()):
            return text[len(known.strip()) :]
    return ""
