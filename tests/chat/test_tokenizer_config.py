"""tokenizer_config.json, read by transformers' AutoTokenizer: the same special tokens, ids and chats as here."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.chat.test_encoding import CASES, chat
from wavefold.chat import Tokenizer, byte_tokenizer, train_tokenizer
from wavefold.chat.encoding import encode_chat
from wavefold.chat.special_tokens import BOS, EOS, PAD, USER
from wavefold.chat.tokenizer_config import FILE_NAME
from wavefold.locate import DEFAULT_MODEL

transformers = pytest.importorskip("transformers")

TRAINED = train_tokenizer([Path(__file__).read_text(encoding="utf-8"), "naïve 東京 🙂\n" * 30], 600)
TEXT = "def f(x):\n    return x , 'naïve' . <think> 🙂\n"


def saved(tokenizer: Tokenizer, folder: Path):  # type: ignore[no-untyped-def]
    tokenizer.save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["bytes", "trained", "shipped"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A tokenizer here, and transformers' from the folder that it was saved in."""
    if request.param == "shipped":
        return Tokenizer.load(DEFAULT_MODEL), transformers.AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    tokenizer = byte_tokenizer() if request.param == "bytes" else TRAINED
    return tokenizer, saved(tokenizer, tmp_path_factory.mktemp("tokenizer"))


def test_transformers_has_the_special_tokens(pair) -> None:  # type: ignore[no-untyped-def]
    ours, other = pair
    assert (other.bos_token, other.eos_token, other.pad_token) == (BOS, EOS, PAD)
    assert (other.bos_token_id, other.eos_token_id) == (ours.bos_id, ours.eos_id)
    assert other.pad_token_id not in (ours.bos_id, ours.eos_id)
    assert other.clean_up_tokenization_spaces is False
    assert isinstance(other, transformers.PreTrainedTokenizerFast)


def test_transformers_gives_the_same_ids_without_bos(pair) -> None:  # type: ignore[no-untyped-def]
    ours, other = pair
    plain = TEXT.replace("<think>", "")
    assert other(plain)["input_ids"] == ours.encode(plain)
    assert other(TEXT)["input_ids"] == ours.encode(TEXT, allow_special=True)
    assert other.decode(ours.encode(plain)) == plain


@pytest.mark.parametrize(("messages", "text"), CASES)
def test_chat_template_gives_the_ids_of_encode_chat(pair, messages, text: str) -> None:  # type: ignore[no-untyped-def]
    ours, other = pair
    ids, learned = encode_chat(ours, messages)
    encoded = other.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert encoded["input_ids"] == ids
    assert [bool(mask) for mask in encoded["assistant_masks"]] == learned
    assert other.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == text


def test_chat_template_opens_no_answer_unasked(pair) -> None:  # type: ignore[no-untyped-def]
    _, other = pair
    assert other.apply_chat_template(chat("u:hi"), tokenize=False) == f"{BOS}{USER}hi"


@pytest.mark.parametrize(
    "message", [{"role": "tool", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "x"}]}]
)
def test_chat_template_refuses_what_is_not_encoded(pair, message) -> None:  # type: ignore[no-untyped-def]
    _, other = pair
    with pytest.raises(Exception, match="expected"):
        other.apply_chat_template([message], tokenize=False)


def test_a_loaded_file_travels_unchanged(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir(), (tmp_path / "to").mkdir()
    TRAINED.save(tmp_path / "from")
    text = '{"bos_token": "other",   "a key of the user": 1}'
    (tmp_path / "from" / FILE_NAME).write_text(text)
    Tokenizer.load(tmp_path / "from").save(tmp_path / "to")
    assert (tmp_path / "to" / FILE_NAME).read_text() == text
    assert stat.S_IMODE((tmp_path / "to" / FILE_NAME).stat().st_mode) == 0o600


def test_tokens_that_are_absent_are_left_out(tmp_path: Path) -> None:
    Tokenizer(byte_tokenizer()._text.replace(PAD, "<other>").replace(USER, "<user>")).save(tmp_path)
    config = json.loads((tmp_path / FILE_NAME).read_text())
    assert "pad_token" not in config and "chat_template" not in config
    assert config["eos_token"] == EOS
