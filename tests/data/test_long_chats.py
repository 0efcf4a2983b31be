"""Chats longer than a sequence: refused by count, without their earliest turns, or left out; never in pieces."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.tiny import CONFIG
from wavefold.chat.encoding import encode_chat
from wavefold.chat.tokenizer import byte_tokenizer
from wavefold.cli.main import main
from wavefold.data.batches import Batches, Documents, InMemory, Tokens, cut, fixed_batches
from wavefold.data.corpus import Document, is_held_out
from wavefold.data.long_chats import fit_chats, fit_documents, last_turns
from wavefold.system import Notice
from wavefold.train import schedule
from wavefold.train.recipe import Recipe
from wavefold.train.texts import read_text
from wavefold.waves.group import Group

TOKENIZER = byte_tokenizer()
ENCODE = functools.partial(encode_chat, TOKENIZER)
BOS, END_THINK = TOKENIZER.bos_id, TOKENIZER.token_id("</think>")


def chat_of(*lengths: tuple[int, int], system: str = "") -> tuple[dict[str, str], ...]:
    """A chat of turns with so many characters of question and answer; turn i speaks in the i-th letter."""
    messages = [{"role": "system", "content": system}] if system else []
    for number, (question, answer) in enumerate(lengths):
        letter = chr(97 + number % 26)
        messages.append({"role": "user", "content": letter * question})
        messages.append({"role": "assistant", "content": letter.upper() * answer})
    return tuple(messages)


def named(*chats: tuple[dict[str, str], ...]) -> list[Document]:
    return [Document(f"chats.jsonl:{number}", "", chat) for number, chat in enumerate(chats, 1)]


SHORT, LONG, LAST_LONG = chat_of((5, 5)), chat_of((20, 20), (20, 20), (5, 5), system="S"), chat_of((5, 5), (5, 500))


def assert_whole_chats(documents: Documents, seq_len: int) -> None:
    """Every piece that a run would learn begins with BOS, and what is learned follows its question."""
    for document in documents:
        (piece,) = cut(document, seq_len)
        assert piece.ids[0] == BOS
        assert piece.learned is not None and piece.learned.any()
        first = int(np.flatnonzero(piece.learned)[0])
        assert piece.ids[first - 1] == END_THINK and first > 3


def test_long_chats_are_refused_by_count_with_the_ways_out() -> None:
    with pytest.raises(ValueError) as caught:
        fit_chats([named(SHORT, LONG, LAST_LONG), named(SHORT)], ENCODE, 60, "refuse", "chats.jsonl")
    message = str(caught.value)
    assert "chats.jsonl: 2 of 4 chats are longer than a sequence" in message
    assert (
        "the longest, chats.jsonl:3, has 524 tokens; seq_len = 60, the shortest of length_stages, has room for 61"
        in message
    )
    assert "--long-chats truncate" in message and "--long-chats drop" in message and "length_stages" in message


def test_a_chat_of_a_sequence_and_its_last_target_fits() -> None:
    length = len(ENCODE(SHORT).ids)
    assert len(fit_chats([named(SHORT)], ENCODE, length - 1, "refuse", "")[0]) == 1
    assert len(cut(Tokens(np.array(ENCODE(SHORT).ids)), length - 1)) == 1
    with pytest.raises(ValueError, match="1 of 1 chats"):
        fit_chats([named(SHORT)], ENCODE, length - 2, "refuse", "")


def test_dropped_chats_are_left_out_and_counted() -> None:
    with pytest.warns(Notice, match="2 of 4 chats are longer .*; they are left out"):
        train, held_out = fit_chats([named(SHORT, LONG, LAST_LONG), named(SHORT)], ENCODE, 60, "drop", "chats.jsonl")
    assert [name for name, _ in train] == ["chats.jsonl:1"] and len(held_out) == 1


def test_truncated_chats_keep_bos_system_and_their_last_turns() -> None:
    with pytest.warns(Notice, match="2 of 4 chats are longer .*; 1 lost their earliest turns, 1 are left out"):
        train, _ = fit_chats([named(SHORT, LONG, LAST_LONG), named(SHORT)], ENCODE, 80, "truncate", "chats.jsonl")
    assert [name for name, _ in train] == ["chats.jsonl:1", "chats.jsonl:2"]
    text = TOKENIZER.decode(train[1][1].ids.tolist())
    assert (
        text.startswith("<｜begin▁of▁sentence｜>S<｜User｜>bbbb") and "a" not in text.split("S", 1)[1].split("User")[0]
    )
    assert text.count("<｜User｜>") == 2 and "ccccc" in text and "CCCCC" in text
    assert_whole_chats(InMemory(tokens for _, tokens in train), 80)


def test_a_last_turn_that_is_too_long_is_never_learned_without_its_question() -> None:
    assert last_turns(LAST_LONG, ENCODE, 100) is None
    assert last_turns(chat_of((500, 5)), ENCODE, 100) is None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=12),
       st.integers(20, 200), st.sampled_from(["", "be brief"]))  # fmt: skip
def test_as_many_last_turns_stay_as_fit(turns: list[tuple[int, int]], seq_len: int, system: str) -> None:
    chat = chat_of(*turns, system=system)
    fitting = [len(turns) - n for n in range(len(turns)) if len(ENCODE(chat_of(*turns[n:], system=system)).ids)
               <= seq_len + 1]  # fmt: skip
    document = last_turns(chat, ENCODE, seq_len)
    if not fitting:
        assert document is None
        return
    assert document is not None
    assert document.ids.tolist().count(TOKENIZER.token_id("<｜User｜>")) == max(fitting)
    assert_whole_chats(InMemory([document]), seq_len)


def test_several_users_messages_are_one_turn() -> None:
    chat = ({"role": "user", "content": "a" * 50}, {"role": "user", "content": "b" * 5},
            {"role": "assistant", "content": "c"})  # fmt: skip
    assert last_turns(chat, ENCODE, 30) is None  # the answer answers both


@pytest.mark.parametrize("policy", ["drop", "truncate"])
def test_nothing_left_to_learn_from_or_to_hold_out_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="none is left to learn from"):
        fit_chats([named(LAST_LONG), named(SHORT)], ENCODE, 60, policy, "")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none is left to hold out"):
        fit_chats([named(SHORT), named(LAST_LONG)], ENCODE, 60, policy, "")  # type: ignore[arg-type]


def test_shards_with_masks_fall_under_the_rule_and_plain_ones_do_not() -> None:
    masked = Tokens(np.arange(100), np.arange(100) > 50)
    documents = InMemory([np.arange(300), masked, Tokens(np.arange(20), np.arange(20) > 5)])
    for policy, reason in (("refuse", "--long-chats drop leaves them out"), ("truncate", "no turns to truncate by")):
        with pytest.raises(ValueError, match=f"1 of 6 documents .* 100 tokens.*{reason}"):
            fit_documents([documents, InMemory([np.arange(9)] * 3)], 60, policy, "shards")  # type: ignore[arg-type]
    with pytest.warns(Notice, match="1 of 6 documents"):
        train, held_out = fit_documents([documents, InMemory([np.arange(9)] * 3)], 60, "drop", "shards")
    assert [len(document) for document in train] == [300, 20] and len(held_out) == 3
    assert fit_documents([documents], 99, "refuse", "shards") == [documents]


def test_the_shortest_stage_decides() -> None:
    """A chat that fits later stages alone would be learned in pieces in the first."""
    recipe = Recipe(steps=100, length_stages=((0, 200), (50, 64), (60, 300)))
    assert schedule.shortest_seq_len(recipe) == 64
    chats = [chat_of((5, n)) for n in range(1, 60, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        (kept,) = fit_chats([named(*chats)], ENCODE, schedule.shortest_seq_len(recipe), "drop", "")
    documents = InMemory(tokens for _, tokens in kept)
    batches = Batches(documents, 0, functools.partial(schedule.sizes, recipe))
    for step in (0, 49, 50, 59, 60, 99):
        packed = batches(step)
        starts = np.cumsum([0, *packed.lengths[:-1]])
        assert set(packed.tokens[starts].tolist()) == {BOS}
    assert {int(packed.tokens[0]) for packed in fixed_batches(documents, 300, 200)} == {BOS}


def write_chats(path: Path, chats: list[tuple[dict[str, str], ...]]) -> Path:
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    return path


def test_the_flag_of_the_command(tmp_path: Path, capsys) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG.to_dict()))
    more = [chat_of((9, 9), (9, 300)), chat_of((9, 300), (9, 9))]
    data = write_chats(tmp_path / "chats.jsonl", [chat_of((9, 9 + i)) for i in range(60)] + more)
    command = ["train", "--config", str(config), "--data", str(data), "--dtype", "float32", "--set", "steps=2",
               "length_stages=((0,160),)", "batch_tokens=320"]  # fmt: skip
    printed = {}
    for policy in ("refuse", "drop", "truncate"):
        out = tmp_path / policy
        out.mkdir()
        TOKENIZER.save(out)  # of bytes: one trained on these chats would make them short
        flags = [] if policy == "refuse" else ["--long-chats", policy]
        assert main([*command, "--out", str(out), *flags]) == (2 if policy == "refuse" else 0)
        printed[policy] = capsys.readouterr().err
        assert printed[policy].count("chats.jsonl: 2 of 62 chats are longer than a sequence") == 1
    assert "they are left out" in printed["drop"]
    assert "1 lost their earliest turns, 1 are left out" in printed["truncate"]


def test_held_out_chats_fall_under_the_rule(tmp_path: Path) -> None:
    chats = [chat_of((9, 300)) if is_held_out(f"chats.jsonl:{n}") else chat_of((9, 9)) for n in range(1, 61)]
    source = str(write_chats(tmp_path / "chats.jsonl", chats))
    TOKENIZER.save(tmp_path)
    with pytest.raises(ValueError, match="none is left to hold out"):
        read_text(source, tmp_path, 320, None, Group(), 160, "drop")
