"""Folders made all at once, and who may sweep what is left of them."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import numpy as np
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion import duplicates
from hlmm_scan.genotypes.conversion.duplicates import RepeatedIds
from hlmm_scan.staging import staged_folder, sweep


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_content_appears_at_the_end(tmp_path):
    target = tmp_path / "out"
    with staged_folder(target) as folder:
        (folder / "file").write_text("whole")
        assert not target.exists()
        assert folder.parent.parent == tmp_path
    assert (target / "file").read_text() == "whole"
    assert names(tmp_path) == ["out"]


def test_what_another_process_is_writing_is_not_swept(tmp_path):
    target = tmp_path / "out"
    with staged_folder(target) as folder:
        # flock belongs to the open file: a second open is as foreign as a second process.
        assert sweep(target) == []
        assert folder.exists()


def test_only_this_targets_leftovers_are_swept(tmp_path):
    for name in (".out.abc.partial", ".output.abc.partial", "out.abc.partial", ".out.abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    assert [p.name for p in sweep(tmp_path / "out")] == [".out.abc.partial"]
    odd = tmp_path / "o[u]t*"
    (tmp_path / ".o[u]t*.x.partial").mkdir()
    (tmp_path / ".o[u]t*.x.partial" / "lock").touch()
    assert len(sweep(odd)) == 1


def test_folder_without_lock_is_left_for_an_hour(tmp_path):
    folder = tmp_path / ".out.abc.partial"
    folder.mkdir()
    assert sweep(tmp_path / "out") == []
    long_ago = time.time() - 3700
    os.utime(folder, (long_ago, long_ago))
    assert sweep(tmp_path / "out") == [folder]


def test_target_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(InputError, match="appeared there meanwhile"), staged_folder(target):
        target.mkdir()
    assert names(tmp_path) == ["out"]


def test_replaced_content_comes_back_where_the_second_rename_fails(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def fail_second(self, other):
        if self.name == "content":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", fail_second)
    words = "out: cannot be written: Permission denied"
    with pytest.raises(InputError, match=words), staged_folder(target, replace=True):
        pass
    assert names(tmp_path) == ["out"]
    assert names(target) == ["old"]


def test_lock_taken_by_a_sweeper_means_another_folder(tmp_path, monkeypatch):
    real, calls = fcntl.flock, 0

    def busy_once(file, operation):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise BlockingIOError
        return real(file, operation)

    monkeypatch.setattr(fcntl, "flock", busy_once)
    with staged_folder(tmp_path / "out"):
        pass
    assert calls == 2
    assert (tmp_path / "out").is_dir()


def test_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with staged_folder(tmp_path / "out"):
        assert sweep(tmp_path / "out") == []
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("at_once", [1 << 21, 7])
def test_repeated_ids(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(duplicates, "HASHES_AT_ONCE", at_once)
    monkeypatch.setattr(duplicates, "_READ", 10)
    ids = np.random.default_rng(1).integers(0, 60, size=100).astype(str).astype(object)
    with (tmp_path / "scratch").open("w+b") as scratch:
        repeated = RepeatedIds(scratch)
        for start in range(0, 100, 33):
            repeated.add(ids[start : start + 33])
        found = repeated.find()
    again = [i for i in range(100) if ids[i] in ids[:i].tolist()]
    assert found == (len(again), again[0])


def test_no_repeated_ids(tmp_path):
    with (tmp_path / "scratch").open("w+b") as scratch:
        repeated = RepeatedIds(scratch)
        assert repeated.find() == (0, -1)
        repeated.add(np.array(["a", "b"], dtype=object))
        assert repeated.find() == (0, -1)
