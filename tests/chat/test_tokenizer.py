"""The tokenizer: lossless, deterministic, special tokens only where they are allowed, streaming in whole characters.

Oracle for the byte table: the `tokenizers` library's own byte-level decoder, which `decode` does not use.
"""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from wavefold.chat import StreamDecoder, Tokenizer, byte_tokenizer, train_tokenizer
from wavefold.chat.special_tokens import BOS, EOS, SPECIAL_TOKENS, THINK, USER

CORPUS = [Path(__file__).read_text(encoding="utf-8"), "naïve Straße 東京 🙂\n" * 30, "<think>x</think> " * 50]
ANY_TEXT = st.one_of(st.text(), st.text("<>/think｜User |DSML\n\t0123é🙂"))

BYTES = byte_tokenizer()
TRAINED = train_tokenizer(CORPUS, 600)
both = pytest.mark.parametrize("tokenizer", [BYTES, TRAINED], ids=["bytes", "trained"])


@both
@given(text=ANY_TEXT)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(range(len(SPECIAL_TOKENS))), "a special token out of plain text"
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text


@both
@given(ids=st.lists(st.integers(0, 700)))
def test_stream_gives_what_decode_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(id_) for id_ in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_stream_holds_half_characters_back() -> None:
    stream = StreamDecoder(BYTES)
    pieces = [stream.push(id_) for id_ in BYTES.encode("é🙂a")]
    assert pieces == ["", "é", "", "", "", "🙂", "a"]
    assert stream.push(BYTES.encode("é")[0]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.push(BYTES.encode("a")[0]) == "a", "finish leaves the decoder fresh"


def test_every_token_stands_for_its_bytes() -> None:
    oracle = tokenizers.Tokenizer.from_str(TRAINED._text)
    for id_ in range(TRAINED.vocab_size):
        assert TRAINED.decode([id_]) == oracle.decode([id_], skip_special_tokens=False)
    singles = [BYTES.token_bytes(id_) for id_ in range(len(SPECIAL_TOKENS), BYTES.vocab_size)]
    assert sorted(singles) == [bytes([byte]) for byte in range(256)]


def test_special_tokens_only_on_demand() -> None:
    text = f"{BOS}{USER}hi{THINK}"
    assert TRAINED.encode(text, allow_special=True)[:2] == [TRAINED.bos_id, TRAINED.token_id(USER)]
    plain = TRAINED.encode(text, bos=True)
    assert plain[0] == 0
    assert not set(plain[1:]) & set(range(len(SPECIAL_TOKENS)))


def test_special_tokens_not_marked_special() -> None:
    """As in the official file: `<think>` and the roles are added tokens that are not marked special."""
    content = json.loads(TRAINED._text)
    for token in content["added_tokens"]:
        token["special"] = False
    tokenizer = Tokenizer(json.dumps(content))
    assert tokenizer.encode(USER) == TRAINED.encode(USER)
    assert tokenizer.encode(USER, allow_special=True) == [tokenizer.token_id(USER)]


def test_ids() -> None:
    assert (BYTES.bos_id, BYTES.eos_id, BYTES.vocab_size) == (0, 1, len(SPECIAL_TOKENS) + 256)
    assert TRAINED.vocab_size == 600
    assert [TRAINED.token_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert TRAINED.encode("", bos=True) == [0]
    with pytest.raises(ValueError, match=r"'<\|nope\|>' is not in"):
        TRAINED.token_id("<|nope|>")


def test_ids_without_a_token() -> None:
    assert BYTES.decode([5000, *BYTES.encode("a")]) == "\ufffda"


def test_lone_surrogate() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        BYTES.encode("a\ud800")


def test_digits_and_indentation() -> None:
    tokenizer = train_tokenizer(["    x = 1234567\n        return self.value\n" * 20], 400)
    pieces = [tokenizer.decode([id_]) for id_ in tokenizer.encode("a = 1234567\n        return")]
    assert pieces[-3:] == ["7", "\n        ", "return"]
    assert all(len(piece.strip()) <= 3 for piece in pieces if piece.strip().isdigit())


def test_training_is_deterministic() -> None:
    """In another process, with other hash seeds and without threads."""
    script = (
        "import sys; from wavefold.chat import train_tokenizer;"
        "texts = sys.stdin.read().split('\\0'); sys.stdout.write(train_tokenizer(texts, 600)._text)"
    )
    for threads in ("false", "true"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            input="\0".join(CORPUS).encode(),
            capture_output=True,
            check=True,
            env=os.environ | {"TOKENIZERS_PARALLELISM": threads, "PYTHONHASHSEED": "1", "PYTHONIOENCODING": "utf-8"},
        )
        assert done.stdout.decode() == TRAINED._text


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab_size = 200 is not allowed; expected at least 285"):
        train_tokenizer([], 200)


def test_save_and_load(tmp_path: Path) -> None:
    TRAINED.save(tmp_path)
    TRAINED.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert stat.S_IMODE((tmp_path / "tokenizer.json").stat().st_mode) == 0o600
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("def f(x):") == TRAINED.encode("def f(x):")
    assert loaded._text == TRAINED._text


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BYTES.save(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        TRAINED.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert Tokenizer.load(tmp_path)._text == BYTES._text


WITH_A_HOLE = json.dumps(
    json.loads(BYTES._text)
    | {"added_tokens": [json.loads(BYTES._text)["added_tokens"][0] | {"id": 99999, "content": "<hole>"}]}
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a tokenizer file"),
        ("{}", "not a tokenizer file"),
        ('{"model"', "not a tokenizer file"),
        (tokenizers.Tokenizer(tokenizers.models.BPE()).to_str(), "decoder NoneType is not allowed; expected ByteLevel"),
        (BYTES._text.replace('"decoder":{"type":"ByteLevel"', '"decoder":{"type":"Nope"'), "not a tokenizer file"),
        (WITH_A_HOLE, "added token '<hole>' has id 99999, and the tokenizers library would give it"),
    ],
)
def test_unusable_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        Tokenizer.load(tmp_path / "nowhere")


def test_eos_is_not_in_plain_text() -> None:
    assert BYTES.eos_id not in BYTES.encode(EOS)


@both
def test_hidden_tokens_are_left_out_on_demand(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"a{EOS}é{USER}{THINK}b", allow_special=True)
    assert tokenizer.decode(ids) == f"a{EOS}é{USER}{THINK}b"
    assert tokenizer.decode(ids, show_special=False) == f"aé{THINK}b", "reasoning's marks are part of the text"
    stream = StreamDecoder(tokenizer, show_special=False)
    assert "".join(map(stream.push, ids)) + stream.finish() == f"aé{THINK}b"
