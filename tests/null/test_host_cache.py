"""Arrays shared by the processes of a host: whole, checked, private to the user, and swept."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.null import host_cache
from hlmm_scan.null.host_cache import StoredArray, digest_of, strips_of

ARRAY = np.arange(35.0).reshape(7, 5) / 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test's own, and none of the warnings of the tests before."""
    monkeypatch.setenv(host_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(host_cache, "_warned", False)
    return tmp_path / "cache" / f"hlmm-scan-{os.getuid()}"


def stored(array: np.ndarray = ARRAY, decoded: list[int] | None = None) -> StoredArray:
    """The array as if from a store, in strips of two rows; `decoded` counts how often."""

    def strips():
        if decoded is not None:
            decoded.append(1)
        return (np.ascontiguousarray(array[i : i + 2]) for i in range(0, len(array), 2))

    digest = digest_of(ARRAY.shape, ARRAY.dtype, [ARRAY])
    return StoredArray("store/columns", digest, ARRAY.shape, ARRAY.dtype, strips)


def elsewhere(code: str) -> subprocess.Popen[str]:
    """Run Python in another process, which talks through its pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_digest_is_of_values_shape_and_type_and_not_of_the_strips():
    known = digest_of(ARRAY.shape, ARRAY.dtype, [ARRAY])
    assert digest_of(ARRAY.shape, ARRAY.dtype, [ARRAY[:3], ARRAY[3:]]) == known
    single = ARRAY.astype(np.float32)
    changed = ARRAY.copy()
    changed[6, 4] = np.nextafter(changed[6, 4], 99)
    others = [ARRAY.reshape(5, 7), single, changed, ARRAY.astype(np.int64)]
    assert len({known, *(digest_of(a.shape, a.dtype, [a]) for a in others)}) == 5


def test_strips_make_up_the_array_in_any_layout(monkeypatch):
    monkeypatch.setattr(host_cache, "_STRIP_BYTES", 90)
    for array in (ARRAY, np.asfortranarray(ARRAY)):
        strips = list(strips_of(array, np.float32))
        assert [len(s) for s in strips] == [2, 2, 2, 1]
        assert all(s.flags.c_contiguous and s.dtype == np.float32 for s in strips)
        np.testing.assert_array_equal(np.concatenate(strips), ARRAY.astype(np.float32))


def test_an_array_is_decoded_once_mapped_read_only_and_swept(cache):
    decoded: list[int] = []
    array = stored(decoded=decoded).mapped()
    np.testing.assert_array_equal(array, ARRAY)
    assert isinstance(array.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    assert stored(decoded=decoded).mapped() is array
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700
    host_cache.sweep()
    assert list(cache.iterdir()) == []
    np.testing.assert_array_equal(array, ARRAY)  # who has it, has it
    np.testing.assert_array_equal(stored(decoded=decoded).mapped(), ARRAY)
    assert len(decoded) == 2


def test_an_array_nobody_has_any_more_is_free_to_go(cache):
    array = stored().mapped()
    (file,) = cache.iterdir()
    host_cache._remove_unused(file)
    assert file.exists()
    del array
    host_cache._remove_unused(file)
    assert not file.exists()


def test_what_another_process_uses_stays_and_what_a_killed_one_left_goes(cache):
    stored().mapped()
    other = elsewhere(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, "tests/null")
        import test_host_cache
        array = test_host_cache.stored().mapped()
        print("mapped", flush=True)
        sys.stdin.read()
        """
    )
    assert other.stdout.readline() == "mapped\n"
    host_cache.sweep()
    assert len(list(cache.iterdir())) == 1
    other.kill()
    other.communicate()
    (cache / "0123.partial").write_bytes(b"half")
    (cache / "notes.txt").write_bytes(b"not ours")
    host_cache.sweep()
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]


def test_many_processes_decode_once(cache, tmp_path):
    log = tmp_path / "log"
    code = f"""
        import sys
        sys.path.insert(0, "tests/null")
        import test_host_cache
        class Log:
            def append(self, one):
                with open({str(log)!r}, "a") as file:
                    file.write("decoded\\n")
        sys.stdin.readline()
        array = test_host_cache.stored(decoded=Log()).mapped()
        assert (array == test_host_cache.ARRAY).all()
        print("good")
        """
    others = [elsewhere(code) for _ in range(4)]
    for other in others:
        other.stdin.write("go\n")
        other.stdin.flush()
    assert [other.communicate()[0] for other in others] == ["good\n"] * 4
    assert log.read_text() == "decoded\n"


@pytest.mark.parametrize("damage", ["value", "header", "cut", "empty", "other array"])
def test_a_damaged_file_is_seen_and_made_again(cache, damage, caplog):
    stored().mapped()
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[{"value": -3, "header": 12}.get(damage, 0)] ^= 1
    if damage == "other array":
        np.save(file, ARRAY + 1)
    else:
        file.write_bytes(content[: {"cut": 200, "empty": 0}.get(damage)])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(stored().mapped(), ARRAY)
    assert "damaged" in caplog.text
    host_cache.sweep()


@pytest.mark.parametrize("folder", ["of others", "a link", "a file", "full disk"])
def test_without_a_folder_each_process_keeps_a_copy_and_says_so_once(
    cache, folder, caplog, monkeypatch, tmp_path
):
    cache.parent.mkdir()
    if folder == "of others":
        cache.mkdir()
        cache.chmod(0o777)
    elif folder == "a link":
        (tmp_path / "mine").mkdir(mode=0o700)
        cache.symlink_to(tmp_path / "mine")
    elif folder == "a file":
        cache.parent.rmdir()
        cache.parent.write_text("")
    else:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with caplog.at_level(logging.WARNING):
        array = stored().mapped()
        assert stored().mapped() is array
        del array
        array = stored().mapped()
    np.testing.assert_array_equal(array, ARRAY)
    assert not array.flags.writeable
    assert caplog.text.count("keeps the random effects in its own memory") == 1
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob("*.partial"))
    host_cache.sweep()


@pytest.mark.parametrize("shared", [True, False])
def test_a_store_that_lost_values_is_found_out(cache, shared):
    if not shared:
        cache.mkdir(parents=True)
        cache.chmod(0o755)
    holed = ARRAY.copy()
    holed[2:4] = 0  # as where a chunk's file is gone
    with pytest.raises(InputError, match="store/columns: damaged"):
        stored(holed).mapped()
    assert list(cache.iterdir()) == []


def test_nothing_to_sweep_is_no_error(cache):
    host_cache.sweep()
    assert not cache.exists()


def test_who_waits_for_a_file_in_the_making_does_not_wait_for_its_users(cache):
    """The maker has its shared lock before the process that waits is woken."""
    array = stored()
    cache.mkdir(parents=True, mode=0o700)
    path = cache / f"{array.digest}.npy"
    scratch = path.with_suffix(".partial")
    with scratch.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = threading.Thread(target=array._decode, args=(path,), daemon=True)
        waiting.start()
        time.sleep(0.1)  # at its lock by then
        assert waiting.is_alive()
        np.save(file, ARRAY)
        file.flush()
        scratch.rename(path)
        fcntl.flock(file, fcntl.LOCK_SH)
        waiting.join(timeout=10)
        assert not waiting.is_alive()
        np.testing.assert_array_equal(array.mapped(), ARRAY)
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_a_file_whose_maker_died_is_made_by_who_waited(cache):
    decoded: list[int] = []
    array = stored(decoded=decoded)
    cache.mkdir(parents=True, mode=0o700)
    scratch = cache / f"{array.digest}.partial"
    file = scratch.open("wb")
    file.write(b"half")
    fcntl.flock(file, fcntl.LOCK_EX)
    found: list[np.ndarray] = []
    waiting = [threading.Thread(target=lambda: found.append(array._open())) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    file.close()  # as the end of its process does
    for thread in waiting:
        thread.join(timeout=10)
    assert len(decoded) == 1
    assert all(np.array_equal(one, ARRAY) for one in found)
    assert len(found) == 3
