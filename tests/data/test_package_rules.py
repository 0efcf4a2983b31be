"""What of an archive is read, what is a document, and which licences are allowed."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.data.archives import module, write_tar
from wavefold.data.packages import archive
from wavefold.data.packages.archive import is_metadata, members
from wavefold.data.packages.duplicates import SAME, found_share, hashes_of_runs, jaccard, near_duplicates
from wavefold.data.packages.licence import foreign_licence, is_allowed, stated_licence
from wavefold.data.packages.rules import MAX_BYTES, MIN_BYTES, by_path, by_text

LONG = module("apple", 40)


def read(path: Path) -> dict[str, bytes | None]:
    return {name: content for name, _, content in members(path, lambda name: name.endswith(".py"))}


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_files_are_read_and_links_are_not(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a-1.tar.gz", {
        "a-1/a.py": "1", "a-1/b.txt": "2", "a-1/link.py": special("a-1/link.py", tarfile.SYMTYPE, "/etc/passwd"),
        "a-1/hard.py": special("a-1/hard.py", tarfile.LNKTYPE, "a-1/a.py"),
        "a-1/pipe.py": special("a-1/pipe.py", tarfile.FIFOTYPE)})  # fmt: skip
    assert read(path) == {"a.py": b"1", "b.txt": None}


def test_wheels_keep_their_whole_paths(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/a.py", "1")
        file.writestr("a-1.dist-info/METADATA", "2")
        link = zipfile.ZipInfo("a/link.py")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    assert read(path) == {"a/a.py": b"1", "a-1.dist-info/METADATA": None}
    assert [is_metadata(name) for name in ("a-1.dist-info/METADATA", "PKG-INFO", "b/PKG-INFO", "METADATA")] == [
        True, True, False, False]  # fmt: skip


@pytest.mark.parametrize("name", ["../a.py", "/a.py", "a-1/../../a.py", "a-1\\..\\a.py", ".."])
def test_names_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a-1.tar.gz", {name: "1"})
    with pytest.raises(ValueError, match=r"a-1\.tar\.gz: .* leads outside of the archive"):
        read(path)


def test_limits_are_checked_before_a_member_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a-1.tar.gz", {"a-1/a.py": "1" * 50, "a-1/b.py": "2" * 9})
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 20)
    assert read(path) == {"a.py": None, "b.py": b"2" * 9}
    for limit, value in (("MAX_MEMBERS", 1), ("MAX_ARCHIVE_BYTES", 58)):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match="has more than"):
            patch.setattr(archive, limit, value)
            read(path)


def test_two_members_of_one_name_and_damage_are_errors(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a-1.tar.gz", {"a-1/a.py": "1", "a-1/./a.py": "2"})
    with pytest.raises(ValueError, match=r"holds 'a-1/\./a\.py' twice"):
        read(path)
    whole = write_tar(tmp_path / "b-1.tar.gz", {"b-1/a.py": LONG * 20}).read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive", b""):
        (tmp_path / "b-1.tar.gz").write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or no archive"):
            read(tmp_path / "b-1.tar.gz")


@pytest.mark.parametrize(
    ("path", "rule"),
    [("src/attr/_make.py", None), ("README.rst", None), ("docs/guide.txt", None), ("django/test/client.py", "tests"),
     ("notes.txt", "other kinds"), ("a/b.c", "other kinds"), ("a/tests/helper.py", "tests"), ("a/test_b.py", "tests"),
     ("conftest.py", "tests"), ("a/contest.py", None), ("latest.py", None), ("a/_vendor/six.py", "vendored"),
     ("a/vendors.py", None), ("a/x_pb2.py", "generated"), ("a/_version.py", "generated"), ("a/conversion.py", None),
     ("a/locale/de/formats.py", "data"), ("docs/i18n/index.txt", None), ("docs/de/index.rst", "data"),
     ("CHANGELOG.md", "history"), ("docs/whatsnew/3.rst", "history"), ("exchange.py", None), ("docs/exchange.md", None),
     ("LICENSE.md", "history"), ("doc/build/orm/session.rst", None), ("doc/build/changelog/log_20.rst", "history")],
)  # fmt: skip
def test_rules_by_path(path: str, rule: str | None) -> None:
    assert by_path(path) == rule


@pytest.mark.parametrize(
    ("path", "content", "rule"),
    [("a.py", LONG.encode(), None), ("a.py", b"x = 1\n", "size"), ("a.py", None, "size"),
     ("a.py", LONG.encode() + b"\xff", "encoding"), ("a.py", LONG.encode() + b"\0", "encoding"),
     ("a.py", b"x = [" + b"apple, " * 200 + b"]\n", "minified"), ("a.md", b"An apple a day. " * 200, None),
     ("a.md", "Ein Äpfelchen täglich hält stäts übel fern. ".encode() * 20, "language"),
     ("a.py", b"# Auto-generated, do not edit.\n" + LONG.encode(), "generated"),
     ("a.py", b'"""Schemas are generated by pydantic."""\n' + LONG.encode(), None),
     ("a.py", b"TABLE = [\n" + b'    1234, 5678, "90",\n' * 40 + b"]\n", "data"),
     ("a.py", b"# GNU General Public License\n" + LONG.encode(), "licence"),
     ("a.md", b"Not under the GNU General Public License. " * 20, None)],
)  # fmt: skip
def test_rules_by_text(path: str, content: bytes | None, rule: str | None) -> None:
    assert by_text(path, content)[0] == rule


def test_sizes_are_inclusive_and_line_ends_become_one() -> None:
    for size, rule in ((MIN_BYTES - 1, "size"), (MIN_BYTES, None), (MAX_BYTES, None), (MAX_BYTES + 1, "size")):
        assert by_text("a.md", (b"apple " * (size // 6 + 1))[:size].replace(b"apple ap", b"apple\nap"))[0] == rule
    assert by_text("a.py", b"\xef\xbb\xbf" + LONG.replace("\n", "\r\n").encode()) == (None, LONG)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [("License-Expression: MIT", "MIT"), ("License-Expression: MIT AND (GPL-2.0-only OR ISC)", None),
     ("License-Expression: BSD-3-Clause AND GPL-3.0-only", ""),
     ("License: BSD\nClassifier: License :: OSI Approved", "BSD"),
     ("Classifier: License :: OSI Approved :: MIT License\nLicense: anything", "MIT"),
     ("Classifier: License :: OSI Approved :: BSD License\nLicense: BSD-2-Clause", "BSD-2-Clause"),
     ("Classifier: License :: OSI Approved :: BSD License\nLicense: BSD 3-Clause License\n  Copyright", "BSD-3-Clause"),
     ("Classifier: License :: OSI Approved :: MIT License\nClassifier: License :: OSI Approved :: "
      "GNU General Public License (GPL)", ""),
     ("License: Apache 2.0", "Apache-2.0"), ("License: proprietary", ""), ("Name: a", ""), ("License: MPL-2.0", "")],
)  # fmt: skip
def test_licences_of_metadata(fields: str, licence: str | None) -> None:
    text = f"Metadata-Version: 2.4\n{fields}\n\nLicense-Expression: MIT is only the description's"
    if licence:
        assert stated_licence(text) == licence
    elif licence is None:
        assert is_allowed(stated_licence(text))
    else:
        with pytest.raises(ValueError, match=r"is not allowed|states no licence"):
            stated_licence(text)


@pytest.mark.parametrize(
    "expression", ["", "(", ")", "MIT OR", "OR MIT", "MIT ISC", "(MIT", "MIT)", "mit", "MIT AND", "MIT OR (MIT"]
)
def test_expressions_that_are_none_are_not_allowed(expression: str) -> None:
    assert not is_allowed(expression)


def test_only_the_head_of_a_file_names_its_licence() -> None:
    assert (
        foreign_licence("# Mozilla Public License 2.0") and foreign_licence("# LGPLv3") and foreign_licence("# GPL-2")
    )
    assert not foreign_licence("x = 1\n" * 1000 + "# GNU General Public License")
    assert not foreign_licence("from a import GPLEX")


def test_near_duplicates_are_found_and_the_first_stays() -> None:
    pytest.importorskip("datasketch", reason="near-duplicates need datasketch")
    near = LONG.replace("seed)", "grain)", 3)
    same = jaccard(hashes_of_runs(LONG), hashes_of_runs(near))
    assert SAME < same < 1
    order = [("a", LONG), ("b", module("pear", 40)), ("c", near), ("d", LONG), ("e", "x"), ("f", "x"), ("g", "")]
    assert near_duplicates(order) == {"c": "a", "d": "a", "f": "e"}
    assert near_duplicates(order, 3) == {"d": "a", "f": "e"}
    assert near_duplicates(order[::-1]) == {"e": "f", "c": "d", "a": "d"}


def test_the_share_of_pairs_that_minhash_finds() -> None:
    """The probability that at least one of 16 bands of 8 values is equal."""
    assert [round(found_share(share), 4) for share in (0.7, 0.8, 0.9, 1)] == [0.6133, 0.947, 0.9999, 1]


def test_jaccard_is_that_of_sets_of_runs() -> None:
    """Held against Python's sets."""
    one, other = list("abcdefgh"), list("xbcdefghi")
    sets = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (one, other)]
    expected = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert jaccard(hashes_of_runs(" ".join(one)), hashes_of_runs(", ".join(other))) == expected == 3 / 6
