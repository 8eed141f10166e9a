"""Text and ids, chats and their text: whatever the text, the way back is exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.replay.chat_template import Prompt, Turn, parse, render
from dynasor_serve.engines.replay.prefix_cache import approximate_tokens
from dynasor_serve.engines.replay.tokenization import UnknownToken, decode, encode, pieces

#: What JSON can carry: everything but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(text=texts)
def test_ids_give_their_text_back_and_fit_into_a_json_number(text: str) -> None:
    ids = encode(text)

    assert decode(ids) == text
    assert len(ids) == len(pieces(text))
    assert "".join(pieces(text)) == text
    assert all(0 < token < 2**53 for token in ids)
    assert encode(decode(ids)) == ids, "a client that checks reads the same tokens again"


@given(text=st.text(st.characters(max_codepoint=0xFFE), min_size=1, max_size=200))
def test_a_token_is_four_characters_as_the_rest_of_the_replay_reckons(text: str) -> None:
    assert len(encode(text)) == approximate_tokens(text)


@pytest.mark.parametrize("token", [0, 2**48, 2**48 + 0xD800, 2**48 + 0x110000, 2**12, 1 + 2**24])
def test_an_id_that_no_text_has_is_refused(token: int) -> None:
    with pytest.raises(UnknownToken, match=f"token id {token} is out of vocabulary"):
        decode([1, token])


turns = st.lists(
    st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), st.text("ab <|im_>\n", max_size=12)), min_size=1
)


@given(turns=turns, said=st.text("xyz \n", max_size=30))
def test_a_rendered_chat_with_more_behind_it_is_read_back(turns: list[Turn], said: str) -> None:
    rendered = render(turns, add_generation_prompt=True)

    read = parse(rendered.text + said)

    assert read.text[: read.reply_at] == rendered.text
    assert read.reply_at is not None
    assert read.text[read.reply_at :] == said
    assert read.questions == rendered.questions == tuple(turn.content for turn in turns[::-1] if turn.role == "user")


def test_a_chat_whose_last_message_is_gone_on_with_ends_inside_it() -> None:
    chat = [Turn("user", "3 + 4?"), Turn("assistant", "It is")]

    gone_on_with = render(chat, add_generation_prompt=False, continue_final_message=True)

    assert gone_on_with.text == render(chat[:1], add_generation_prompt=True).text + "It is"
    assert gone_on_with.reply_at == len(gone_on_with.text) - len("It is")


def test_a_plain_prompt_is_its_own_question_and_does_not_tell_where_the_reply_begins() -> None:
    assert parse("3 + 4?") == Prompt("3 + 4?", ("3 + 4?",), None)
