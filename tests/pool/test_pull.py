"""Pulling from a hub: what arrives is what the hub names, whole or not at all, and nothing is fetched twice."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import stat
from collections import namedtuple
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.disks import small_disk
from tests.pool.commands import Commands, commands
from tests.pool.fake_hub import FakeHub
from wavefold.cli.main import main
from wavefold.pool import hub as hub_module
from wavefold.pool import pull as pull_module
from wavefold.pool.folder import entries
from wavefold.pool.pull import pull
from wavefold.pool.record import RECORD, load_record

CHUNK = 256 << 10
"""What may be fetched again after a kill: buffers of the hub (32 KiB), the process's socket (64) and httpx2 (64)."""
rng = random.Random(7)
SHARDS = {f"model-0000{number}-of-00003.safetensors": rng.randbytes(1_500_000 + number) for number in (1, 2, 3)}
FILES = {
    "config.json": b"{}",
    "empty.json": b"",
    "tokenizer.json": rng.randbytes(300_001),
    **SHARDS,
    "LICENSE": b"Apache",
}
SECOND = "model-00002-of-00003.safetensors"
FEW = {"config.json": b'{"a": 1}', "model.safetensors": rng.randbytes(70_000)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub().running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        for module in (hub_module, pull_module):
            monkeypatch.setattr(module, "FIRST_WAIT_S", 0.0)
        yield hub


@pytest.fixture
def runner(hub: FakeHub, tmp_path: Path) -> Iterator[Commands]:
    (tmp_path / "home").mkdir()
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    with commands(tmp_path, environment) as runner:
        yield runner


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_model_is_pulled(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.put(FILES)
    heard: list[tuple[str, int, int]] = []
    place = pull("someone/model", tmp_path / "models", told=lambda *one: heard.append(one))
    assert place == tmp_path / "models" / "model" and contents(place) == FILES
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    assert hidden(place.parent) == [] and entries(place.parent)["model"].fault == ""
    record = load_record(place)
    assert record is not None and (record.repo, record.revision, record.commit) == ("someone/model", "main", commit)
    assert record.files[SECOND].digest == hashlib.sha256(FILES[SECOND]).hexdigest()
    total = sum(map(len, FILES.values()))
    assert heard[-1][1:] == (total, total) and {of for _, _, of in heard} == {total}
    assert hub.num_bytes == total


def test_huggingface_hub_itself_fetches_the_same(hub: FakeHub, tmp_path: Path, runner: Commands) -> None:
    """The fake hub speaks the protocol: the client that it is for is content with it."""
    hub.put(FILES)
    from huggingface_hub import HfApi

    api = HfApi(hub.endpoint)
    api.snapshot_download("someone/model", local_dir=tmp_path / "theirs", max_workers=1, cache_dir=tmp_path / "cache")
    theirs = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir() if path.is_file()}
    assert theirs == contents(pull("someone/model", tmp_path / "models"))


def test_the_token_stays_with_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FILES)
    pull("someone/model", tmp_path)
    assert {one.path: one.authorization for one in hub.sent} == {
        name: None if name in SHARDS else "Bearer hf_secret" for name in FILES if name != "empty.json"
    }
    assert not any("agent-harnesses" in request for request in hub.requests), "nothing is told of this machine"


def test_killed_at_twenty_random_points(hub: FakeHub, tmp_path: Path, runner: Commands) -> None:
    draws = random.Random(1)
    files = FILES | {name: draws.randbytes(4_000_000) for name in SHARDS}
    hub.put(files)
    hub.pause_s = 0.001
    total = sum(map(len, files.values()))
    models = tmp_path / "models"
    arguments = ("pull", "someone/model", "--models", str(models))
    for _ in range(20):
        limit = hub.num_bytes + draws.randrange(total // 20)

        def armed(pid: int, limit: int = limit) -> None:
            hub.on_bytes = lambda num_bytes: num_bytes >= limit and os.kill(pid, signal.SIGKILL)

        assert runner.run(*arguments, started=armed) == -signal.SIGKILL
        hub.on_bytes = lambda num_bytes: None
        assert entries(models) == {}, "a half model is not offered"
    assert hub.num_bytes > total // 3
    assert runner.run(*arguments) == 0, runner.said.read_text()
    assert contents(models / "model") == files and hidden(models) == []
    for path in files:
        requests = [one for one in hub.sent if one.path == path]
        again = [first.begin + first.num_bytes - second.begin for first, second in pairwise(requests)]
        assert all(0 <= num_bytes <= CHUNK for num_bytes in again), (path, again)
    sent = hub.num_bytes
    assert runner.run(*arguments) == 0 and "is there already" in runner.said.read_text()
    assert hub.num_bytes == sent


def test_killed_before_each_change_to_the_disk(hub: FakeHub, tmp_path: Path, runner: Commands) -> None:
    hub.put(FEW)
    for number in range(100):
        models = tmp_path / f"models{number}"
        arguments = ("pull", "someone/model", "--models", str(models))
        code = runner.run(*arguments, kill_at=number)
        if code == 0:
            break
        assert code == -signal.SIGKILL, runner.said.read_text()
        whole = (models / "model").is_dir()
        assert not whole or contents(models / "model") == FEW
        assert runner.run(*arguments) == 0, runner.said.read_text()
        assert contents(models / "model") == FEW and hidden(models) == [], number
    assert 10 < number < 99


def test_a_truncated_shard_is_refused_and_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FILES)
    hub.served[SECOND] = FILES[SECOND][:-1000]
    with pytest.raises(ValueError, match=rf"{SECOND}: is truncated .*1,499,002 bytes; the hub names 1,500,002"):
        pull("someone/model", tmp_path)
    staging = tmp_path / ".model.pull"
    assert not (staging / SECOND).exists() and not (staging / f"{SECOND}.part").exists() and entries(tmp_path) == {}
    del hub.served[SECOND]
    hub.sent.clear()
    assert contents(pull("someone/model", tmp_path)) == FILES
    assert {one.path for one in hub.sent}.isdisjoint({"config.json", "model-00001-of-00003.safetensors"})


@pytest.mark.parametrize("path", [SECOND, "tokenizer.json"])
def test_an_altered_file_is_refused_and_named(hub: FakeHub, tmp_path: Path, path: str) -> None:
    """Of the same size. Large files have a SHA-256, small ones the SHA-1 of their git blob."""
    hub.put(FILES)
    altered = bytearray(FILES[path])
    altered[123_456] ^= 1
    hub.served[path] = bytes(altered)
    with pytest.raises(ValueError, match=f"{path}: is not the file that the hub names.*It was removed"):
        pull("someone/model", tmp_path)
    assert not any(one.name.startswith(path) for one in (tmp_path / ".model.pull").iterdir())
    assert entries(tmp_path) == {}
    del hub.served[path]
    assert contents(pull("someone/model", tmp_path)) == FILES


def test_what_was_damaged_on_the_disk_is_noticed(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FILES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull_module._Fetch, "_take", _stop_after(800_000))
        with pytest.raises(KeyboardInterrupt):
            pull("someone/model", tmp_path)
    part = next((tmp_path / ".model.pull").glob("*.part"))
    content = bytearray(part.read_bytes())
    content[1000] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=f"{part.stem}: is not the file"):
        pull("someone/model", tmp_path)
    assert not part.exists()
    assert contents(pull("someone/model", tmp_path)) == FILES


def _stop_after(num_bytes: int):
    take = pull_module._Fetch._take

    def stopping(fetch: pull_module._Fetch, piece: bytes) -> None:
        if fetch.at > num_bytes:
            raise KeyboardInterrupt
        take(fetch, piece)

    return stopping


def test_a_branch_that_moves_meanwhile_does_not_mix(hub: FakeHub, tmp_path: Path) -> None:
    old = hub.put(FILES)
    hub.served[SECOND] = b"broken"
    with pytest.raises(ValueError, match="truncated"):
        pull("someone/model", tmp_path)
    new = {name: content[::-1] for name, content in FILES.items()}
    hub.put(new)
    hub.served.clear()
    place = pull("someone/model", tmp_path)
    assert contents(place) == FILES and (load_record(place) or pytest.fail()).commit == old
    said: list[str] = []
    assert pull("someone/model", tmp_path, say=said.append) == place and old[:12] in said[0]
    assert contents(pull("someone/model", tmp_path, "newer")) == new


def test_connections_that_break_are_made_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FILES)
    hub.cut_after = 400_000
    hub.refusals["/someone/model/resolve"] = [(503, {}), (429, {"Retry-After": "0"})]
    assert contents(pull("someone/model", tmp_path)) == FILES
    assert hub.num_bytes == sum(map(len, FILES.values())), "no byte twice"


def test_a_connection_that_stalls_is_made_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from huggingface_hub import constants

    hub.put(FEW)
    hub.stalls = 2
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    assert contents(pull("someone/model", tmp_path)) == FEW and hub.stalls == 0


def test_a_connection_that_brings_nothing_gives_up(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull_module, "bytes_of_file", _broken)
        with pytest.raises(ValueError, match=r"config.json: the connection fails \(reset\) at byte 0 of 8"):
            pull("someone/model", tmp_path)
    assert contents(pull("someone/model", tmp_path)) == FEW


def _broken(*arguments: object):
    raise hub_module.ConnectionLost("reset")


def test_a_host_without_ranges_is_asked_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FILES)
    hub.with_ranges = False
    hub.served[SECOND] = b"x" * len(FILES[SECOND])
    with pytest.raises(ValueError, match="is not the file"):
        pull("someone/model", tmp_path)
    part = tmp_path / ".model.pull" / f"{SECOND}.part"
    part.write_bytes(FILES[SECOND][:1000])
    hub.served.clear()
    assert contents(pull("someone/model", tmp_path)) == FILES


def test_large_files_come_in_several_requests(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(FILES)
    monkeypatch.setattr(pull_module, "REQUEST_BYTES", 400_000)
    assert contents(pull("someone/model", tmp_path)) == FILES
    assert [one.begin for one in hub.sent if one.path == SECOND] == [0, 400_000, 800_000, 1_200_000]


def test_a_disk_that_is_too_small_is_seen_before(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    hub.put(FILES)
    Usage = namedtuple("Usage", "total used free")
    total = sum(map(len, FILES.values()))
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda path: Usage(10**9, 0, total - 1))
    with pytest.raises(ValueError, match=r"someone/model needs 0.00 GiB more, 0.00 GiB are free; make room"):
        pull("someone/model", tmp_path)
    assert hub.num_bytes == 0
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda path: Usage(10**9, 0, total))
    hub.served[SECOND] = b"broken"
    with pytest.raises(ValueError, match="truncated"):
        pull("someone/model", tmp_path)
    hub.served.clear()
    left = len(FILES[SECOND]) + len(FILES["model-00003-of-00003.safetensors"]) + len(FILES["tokenizer.json"])
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda path: Usage(10**9, 0, left))
    assert contents(pull("someone/model", tmp_path)) == FILES, "what is there already needs no room"


def test_a_disk_that_fills_up_keeps_what_came(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(FILES)
    with small_disk(tmp_path / "disk", 2048) as enlarge:
        monkeypatch.setattr(pull_module, "_check_room", lambda staging, record: None)
        with pytest.raises(ValueError, match=r"No space left on device; make room"):
            pull("someone/model", tmp_path / "disk")
        part = next((tmp_path / "disk" / ".model.pull").glob("*.part"))
        size = part.stat().st_size
        hub.sent.clear()
        enlarge()
        assert contents(pull("someone/model", tmp_path / "disk")) == FILES
        assert size > 100_000 and [one.begin for one in hub.sent if one.path == part.stem] == [size]


def test_pickles_and_code_stay_there(hub: FakeHub, tmp_path: Path) -> None:
    others = {"modeling.py": b"import os", "pytorch_model.bin": b"\x80", "training_args.pt": b"\x80",
              "original/model.safetensors": b"x", "a.json.pkl": b"\x80", "notes.exe": b"", "sub/config.json": b"{}",
              RECORD: b"{}", "..json": b"{}",
              ".gitattributes": b""}  # fmt: skip
    hub.put(FEW | others)
    said: list[str] = []
    assert contents(pull("someone/model", tmp_path, say=said.append)) == FEW
    assert said[0].startswith("someone/model: 10 files are not pulled: modeling.py, pytorch_model.bin")
    del others["original/model.safetensors"]
    hub.put({"config.json": b"{}", **others})
    with pytest.raises(ValueError, match=r"holds no \*.safetensors and no \*.gguf.*pytorch_model.bin may hold code"):
        pull("someone/model", tmp_path, "other")


def test_one_of_several_gguf_models_is_chosen(hub: FakeHub, tmp_path: Path) -> None:
    parts = {f"Q8_0/big-Q8_0-0000{number}-of-00002.gguf": bytes([number]) * 100 for number in (1, 2)}
    hub.put({"big-Q4_K_M.gguf": b"4", "big-Q2_K.gguf": b"2", **parts, "config.json": b"{}", "README.md": b"#"})
    with pytest.raises(
        ValueError, match=r"2 GGUF models; choose one by --include: 'big-Q2_K.gguf' \(0.00 GiB\), 'big-Q4"
    ):
        pull("someone/model", tmp_path)
    with pytest.raises(ValueError, match=r"4 files of weights, but --include \*Q5\* matches none.*'Q8_0/big-Q8_0-\*'"):
        pull("someone/model", tmp_path, include=["*Q5*"])
    assert contents(pull("someone/model", tmp_path, "four", include=["*Q4_K_M*"])) == {
        "big-Q4_K_M.gguf": b"4", "README.md": b"#"
    }  # fmt: skip
    pull("someone/model", tmp_path, "eight", include=["Q8_0/"])
    found = entries(tmp_path)
    assert {name: (entry.kind, entry.num_bytes, entry.fault) for name, entry in found.items()} == {
        "four": ("gguf", 1, ""), "eight": ("gguf", 200, "")
    }  # fmt: skip


def test_what_is_no_language_model_is_not_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.put({"model_index.json": b"{}", "unet.safetensors": b"1"})
    with pytest.raises(ValueError, match=r"no config.json and no adapter_config.json with its safetensors"):
        pull("someone/model", tmp_path)
    assert hub.num_bytes == 0


def test_the_command_says_as_what_it_is_offered(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.put({"adapter_config.json": b'{"base_model_name_or_path": "a/flash"}', "adapter_model.safetensors": b"1"})
    command = [
        "pull",
        "someone/model",
        "--models",
        str(tmp_path),
        "--as",
        "cron",
        "--include",
        "*.safetensors",
        "adapt*",
    ]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == (f"flash:cron (adapter, 0.0 MiB) in {tmp_path / 'cron'}; it cannot be used yet: its base 'flash' is "
                   f"not in {tmp_path}\n")  # fmt: skip
    assert "wavefold: adapter_model.safetensors: 0.0 MiB of 0.0 MiB" in err


def test_an_interruption_says_how_to_go_on(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    hub.put(FEW)
    monkeypatch.setattr(pull_module._Fetch, "_take", _stop_after(-1))
    assert main(["pull", "someone/model", "--models", str(tmp_path)]) == 130
    assert "interrupted; the same command goes on where it was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((401, {"X-Error-Code": "GatedRepo"}), "is gated; ask for access at http.*/someone/model, then set HF_TOKEN"),
        ((403, {"X-Error-Code": "GatedRepo"}), "is gated; ask for access"),
        ((401, {}), r"or is private \(401\); check the name, or set HF_TOKEN"),
        ((403, {"X-Error-Message": "token lacks rights"}), r"refused \(403: token lacks rights\); give a token"),
        ((404, {"X-Error-Code": "RepoNotFound"}), r"is not at http.*\(404\)"),
        ((500, {}), "the hub answers 500"),
        ((200, {}), "does not answer as a hub does; check HF_ENDPOINT"),
    ],
)
def test_refusals_say_what_to_do(hub: FakeHub, tmp_path: Path, answer: tuple[int, dict[str, str]], text: str) -> None:
    hub.put(FEW)
    hub.refusals["/api/models"] = [answer]
    with pytest.raises(ValueError, match=f"someone/model: .*{text}"):
        pull("someone/model", tmp_path)
    assert hidden(tmp_path) == []


def test_a_gated_file_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    """The listing of a gated repository is public, its files are not."""
    hub.put(FEW)
    hub.refusals["/someone/model/resolve"] = [(403, {"X-Error-Code": "GatedRepo"})]
    with pytest.raises(ValueError, match="someone/model: is gated"):
        pull("someone/model", tmp_path)
    assert contents(pull("someone/model", tmp_path)) == FEW


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"the hub cannot be reached \(.*refused\); check the network and HF_ENDPOINT"):
        pull("someone/model", tmp_path)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        pull("someone/model", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'wavefold\[hub\]'"):
        pull("someone/model", tmp_path)


def test_mistakes_are_refused_before_anything_is_asked(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FEW)
    names = [("model", None, "expected OWNER/NAME"), ("a/../b", None, "expected OWNER/NAME"),
             ("someone/model", "../x", "is no name"), ("someone/model", ".x", "is no name")]  # fmt: skip
    for repo, name, text in names:
        with pytest.raises(ValueError, match=text):
            pull(repo, tmp_path, name)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="the name is in use; give another one by --as"):
        pull("someone/model", tmp_path)
    assert hub.requests == []
    with pytest.raises(ValueError, match="has no revision v9"):
        pull("someone/model", tmp_path, "v9", revision="v9")
    assert contents(pull("https://huggingface.co/someone/model/tree/main", tmp_path, "mine")) == FEW


def test_an_unfinished_pull_of_something_else_stays(hub: FakeHub, tmp_path: Path) -> None:
    hub.put(FILES)
    hub.put(FEW, "small")
    hub.served[SECOND] = b""
    with pytest.raises(ValueError, match="truncated"):
        pull("someone/model", tmp_path)
    with pytest.raises(ValueError, match=r"unfinished pull of something else \(someone/model --revision main\)"):
        pull("someone/model", tmp_path, revision="small")
    hub.served.clear()
    assert contents(pull("someone/model", tmp_path)) == FILES


def test_two_at_once(hub: FakeHub, tmp_path: Path, runner: Commands) -> None:
    hub.put(FILES)
    refusals: list[str] = []

    def second(num_bytes: int) -> None:
        hub.on_bytes = lambda num_bytes: None
        try:
            pull("someone/model", tmp_path)
        except ValueError as error:
            refusals.append(str(error))

    hub.on_bytes = second
    assert runner.run("pull", "someone/model", "--models", str(tmp_path)) == 0, runner.said.read_text()
    assert len(refusals) == 1 and "is held by process" in refusals[0]
    assert contents(tmp_path / "model") == FILES
