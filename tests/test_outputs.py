"""Files that commands write: whole, their own, and never in the place of a pipe or device."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.outputs import goes_elsewhere, staged_file, staged_text

WRITE = """
import sys
from pathlib import Path
from hlmm_scan.outputs import staged_text
with staged_text(Path(sys.argv[1])) as file:
    file.write("new")
"""


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write(target: Path, text: str = "new") -> None:
    with staged_text(target) as file:
        file.write(text)


def interrupted(target: Path) -> None:
    with staged_text(target) as file:
        file.write("half")
        raise KeyboardInterrupt


def test_of_two_writers_the_last_ones_file_stands_whole(tmp_path):
    target = tmp_path / "out.tsv"
    with staged_text(target) as slow:
        slow.write("slow, ")
        write(target, "quick")
        assert target.read_text() == "quick"
        slow.write("but whole")
    assert target.read_text() == "slow, but whole"
    assert names(tmp_path) == ["out.tsv"]


def test_a_planted_link_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (".out.tsv.partial", ".out.tsv.abcdefgh.partial"):
        (tmp_path / name).symlink_to(victim)
    write(tmp_path / "out.tsv")
    assert victim.read_text() == "mine"
    assert (tmp_path / "out.tsv").read_text() == "new"


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    kept, link = tmp_path / "version-1.tsv", tmp_path / "latest.tsv"
    kept.write_text("first")
    link.symlink_to(kept)
    write(link)
    assert kept.read_text() == "first"
    assert link.read_text() == "new"
    assert not link.is_symlink()


def test_what_a_killed_writer_left_is_swept(tmp_path):
    left = tmp_path / ".out.tsv.x7.partial"
    (left / "made").mkdir(parents=True)
    (left / "lock").touch()
    write(tmp_path / "out.tsv")
    assert names(tmp_path) == ["out.tsv"]


def test_a_failure_leaves_what_stood_there(tmp_path):
    target = tmp_path / "out.tsv"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(target)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.tsv"]


def test_new_files_have_the_permissions_of_any_other(tmp_path):
    write(tmp_path / "out.tsv")
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)}
    assert len(modes) == 1


def test_a_pipe_is_written_into_and_stays(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(30)
    assert read == ["new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_nothing_goes_into_a_pipe_before_all_is_made(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(KeyboardInterrupt):
        interrupted(pipe)  # waits for no reader


def test_devices_stay_what_they_are():
    before = Path("/dev/null").stat()
    write(Path("/dev/null"))
    after = Path("/dev/null").stat()
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_rdev) == (after.st_ino, after.st_rdev)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_gone_on_with_whatever_it_is(tmp_path, name):
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    target = link if name == "link" else name
    command = [sys.executable, "-c", WRITE, str(target)]
    piped = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (piped.stdout, piped.stderr) == ("new", "")
    log = tmp_path / "log"
    log.write_text("old ")
    with log.open("a") as file:
        subprocess.run(command, check=True, stdout=file)
    assert log.read_text() == "old new"
    assert link.is_symlink()


def test_companions_come_along_and_old_ones_go(tmp_path):
    target = tmp_path / "t.gz"
    for name in ("t.gz", "t.gz.csi"):
        (tmp_path / name).write_text("old")
    with staged_file(target, (".tbi", ".csi")) as scratch:
        scratch.write_text("new")
        scratch.with_name("t.gz.tbi").write_text("index")
    assert names(tmp_path) == ["t.gz", "t.gz.tbi"]
    os.mkfifo(tmp_path / "pipe.gz")
    words = "pipe or device; .tbi or .csi would have no place"
    with (
        pytest.raises(InputError, match=words),
        staged_file(tmp_path / "pipe.gz", (".tbi", ".csi")),
    ):
        pass


def test_folders_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written: Is a directory"):
        write(tmp_path / "folder")
    with pytest.raises(InputError, match=r"there is no folder .*none"):
        write(tmp_path / "none" / "x")
    assert names(tmp_path) == ["folder"]


def test_which_names_keep_nothing(tmp_path):
    (tmp_path / "file").touch()
    assert not goes_elsewhere(tmp_path / "file")
    assert not goes_elsewhere(tmp_path / "none")
    assert goes_elsewhere(Path("/dev/null"))
