"""Memory limits read from file trees as the kernel documents them: control groups 1 and 2, nested, partly absent."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from wavefold.system import Limit, available_bytes, check_memory, memory, memory_bytes
from wavefold.system.memory import limits

GB = 10**9
UNLIMITED = 2**63 - 4096  # of version 1
MEMINFO = (
    "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\nHugePages_Total:       0\n"
)
SECOND = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
FIRST = "32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def tree(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    """A file tree with these groups and mounts; `files` by their paths, memory.stat etc."""
    for name, text in {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": "20 1 0:19 / / rw - ext4 /dev/vda rw\n" + mountinfo,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def tightest(root: Path) -> Limit:
    return min(limits(root), key=lambda limit: limit.free)


@pytest.fixture(autouse=True)
def no_process_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_mount_may_have_no_source(tmp_path: Path) -> None:
    """Two blanks stand in its line then."""
    mounts = "21 20 0:20 / /mnt/x rw - tmpfs  rw\n22 20 0:21 / /sys/fs/cgroup rw - cgroup2  rw"
    root = tree(tmp_path, "0::/job", mounts, {"job/memory.max": "1000000", "job/memory.current": "0"})
    assert tightest(root).total == 1_000_000


def test_without_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    assert limits(tmp_path) == [Limit("the machine", 16_000_000 * 1024, 12_000_000 * 1024)]


def test_the_least_of_all_levels_of_a_version_2_group_binds(tmp_path: Path) -> None:
    files = {
        "a/b/memory.max": "max", "a/b/memory.high": "max", "a/b/memory.current": str(GB),
        "a/memory.max": str(3 * GB), "a/memory.current": str(2 * GB),
        "a/memory.stat": f"anon 5\ninactive_file {GB // 2}\nactive_file {GB // 4}\nslab_reclaimable {GB // 8}",
    }  # fmt: skip
    limit = tightest(tree(tmp_path, "0::/a/b", SECOND, files))
    assert limit == Limit("control group /a (memory.max)", 3 * GB, 3 * GB - 2 * GB + GB // 2 + GB // 4 + GB // 8)


def test_a_version_2_group_is_not_to_be_throttled_either(tmp_path: Path) -> None:
    files = {"a/memory.max": str(3 * GB), "a/memory.high": str(2 * GB), "a/memory.current": str(GB)}
    assert tightest(tree(tmp_path, "0::/a", SECOND, files)) == Limit("control group /a (memory.high)", 2 * GB, GB)


def test_version_1_counts_no_page_cache_and_knows_its_number_for_unlimited(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": str(UNLIMITED), "memory/memory.usage_in_bytes": str(5 * GB),
        "memory/a/memory.limit_in_bytes": str(4 * GB), "memory/a/memory.usage_in_bytes": str(3 * GB),
        "memory/a/memory.stat": f"cache 7\ninactive_file 7\ntotal_inactive_file {GB}\ntotal_active_file {GB}",
        "memory/a/b/memory.limit_in_bytes": str(UNLIMITED), "memory/a/b/memory.usage_in_bytes": str(GB),
        "memory/a/b/memory.stat": f"hierarchical_memory_limit {4 * GB}",
    }  # fmt: skip
    cgroup = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/"
    limit = tightest(tree(tmp_path, cgroup, FIRST.replace("rw,memory", "rw,cpu,memory"), files))
    assert limit == Limit("control group /a (memory.limit_in_bytes)", 4 * GB, 3 * GB)
    assert all(limit.total >= 4 * GB for limit in limits(tmp_path))


def test_a_version_1_limit_above_the_mount_is_known_from_memory_stat(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": str(UNLIMITED), "memory/memory.usage_in_bytes": str(GB),
        "memory/memory.stat": f"hierarchical_memory_limit {2 * GB}",
    }  # fmt: skip
    limit = tightest(tree(tmp_path, "4:memory:/pod/c", FIRST.replace("0:29 / ", "0:29 /pod/c "), files))
    assert (limit.total, limit.free) == (2 * GB, GB) and "above /pod/c" in limit.name


@pytest.mark.parametrize("path", ["/docker/abc", "/"])
@pytest.mark.parametrize("top", ["/docker/abc", "/"])
def test_a_container_whose_group_is_mounted_at_the_root(tmp_path: Path, path: str, top: str) -> None:
    files = {"memory.max": str(2 * GB), "memory.current": str(GB)}
    found = tightest(tree(tmp_path, f"0::{path}", SECOND.replace("0:22 / ", f"0:22 {top} "), files))
    assert (found.total, found.free) == (2 * GB, GB)


def test_hybrid_mounts_with_a_blank_in_a_name(tmp_path: Path) -> None:
    files = {"my memory/a/memory.limit_in_bytes": str(GB), "my memory/a/memory.usage_in_bytes": "0"}
    mounts = (
        FIRST.replace("cgroup/memory", "cgroup/my\\040memory") + "\n" + SECOND.replace("cgroup ", "cgroup/unified ")
    )
    assert tightest(tree(tmp_path, "4:memory:/a\n0::/", mounts, files)).total == GB


def test_files_that_are_missing_limit_nothing(tmp_path: Path) -> None:
    files = {"a/memory.max": "max", "b/memory.max": str(GB)}
    assert tightest(tree(tmp_path, "4:memory:/x\n0::/a", SECOND + "\n" + FIRST, files)).name == "the machine"


def test_process_limits_count_what_is_used_and_mapped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, "0::/", SECOND, {})
    (root / "proc/self/status").write_text("Name:\tpython\nVmSize:\t 1000000 kB\nVmData:\t  250000 kB\n")
    totals = {resource.RLIMIT_AS: 4 * GB, resource.RLIMIT_DATA: 2 * GB}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (totals[kind], totals[kind]))
    _, space, data = limits(root)
    assert space == Limit(
        "RLIMIT_AS (ulimit -v)", 4 * GB, 4 * GB - 1_024_000_000 - memory.ADDRESS_SLACK["RLIMIT_AS"], counts_maps=True
    )
    assert data == Limit(
        "RLIMIT_DATA (ulimit -d)", 2 * GB, 2 * GB - 256_000_000 - memory.ADDRESS_SLACK["RLIMIT_DATA"], counts_maps=True
    )


def test_a_refusal_says_what_is_needed_what_is_free_and_which_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Limit("control group /a (memory.max)", 2 * GB, GB)
    space = Limit("RLIMIT_AS (ulimit -v)", 9 * GB, 6 * GB, counts_maps=True)
    monkeypatch.setattr(memory, "limits", lambda: [Limit("the machine", 8 * GB, 7 * GB), group, space])
    assert (memory_bytes(), available_bytes()) == (2 * GB, GB)
    check_memory(GB, "a cache", "less")
    check_memory(GB, "a model", "less", mapped_bytes=5 * GB)
    with pytest.raises(ValueError) as error:
        check_memory(GB + 10**7, "a cache", "fewer tokens")
    assert str(error.value) == (
        "a cache takes 1.01 GB, and 1.00 GB of memory are free: control group /a (memory.max) allows 2.00 GB; "
        "expected fewer tokens"
    )
    with pytest.raises(ValueError, match=r"a model takes 6.10 GB, and 6.00 GB .* RLIMIT_AS \(ulimit -v\) allows 9.00"):
        check_memory(0, "a model", "less", mapped_bytes=6 * GB + 10**8)


def test_a_group_that_is_over_its_limit_has_nothing_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limits", lambda: [Limit("control group /a (memory.high)", GB, -GB)])
    assert available_bytes() == 0
    with pytest.raises(ValueError, match=r"and 0.00 GB of memory are free"):
        check_memory(1, "a cache", "less")


def test_too_little_address_space_is_said_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (400_000_000, 400_000_000))
    with pytest.raises(ValueError, match=r"allows 0.40 GB; expected 1.07 GB at least"):
        memory.check_address_space()


def test_peak_memory() -> None:
    """In a process of its own, where it starts small."""
    script = (
        "from wavefold.system import peak_rss_bytes\n"
        "before = peak_rss_bytes()\n"
        "block = b'x' * 100_000_000\n"
        "del block\n"
        "print(before, peak_rss_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 5_000_000 < before < 100_000_000
    assert 95_000_000 < after - before < 110_000_000
