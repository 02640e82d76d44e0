"""Stores made on an object store: whole, or none, whatever ends the making."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import zarr

from hlmm_scan.errors import InfrastructureError, InputError, StoreHeldError
from hlmm_scan.staging import staged_store, stands, sweep
from hlmm_scan.storage import ObjectPath, Place, lease, place, zarr_store
from hlmm_scan.storage.places import ROOT, UNFINISHED_ROOT

KILLED = """
import os, signal, sys
from hlmm_scan.staging import staged_store
from hlmm_scan.storage import place, zarr_store
import zarr
with staged_store(place(sys.argv[1]), replace=sys.argv[2] == "replace") as unfinished:
    group = zarr.create_group(zarr_store(unfinished), zarr_format=3)
    group.create_array("left", shape=(3,), chunks=(1,), dtype="i4")[:] = 7
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def target(bucket) -> ObjectPath:
    return place(bucket) / "store.zarr"


def fill(unfinished: Place, value: int) -> None:
    group = zarr.create_group(zarr_store(unfinished), zarr_format=3)
    array = group.create_array("values", shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:] = value
    group.attrs["value"] = value


def value(target: Place) -> int:
    group = zarr.open_group(zarr_store(target, read_only=True), mode="r")
    np.testing.assert_array_equal(group["values"][:], group.attrs["value"])
    return int(group.attrs["value"])


def names(target: ObjectPath) -> set[str]:
    return {name for name in target.objects() if not name.startswith(lease.FOLDER)}


def kill_while_making(target: ObjectPath, how: str = "new") -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), how], check=False)
    assert done.returncode == -9
    assert UNFINISHED_ROOT in names(target)


def test_a_store_stands_when_it_is_whole_and_not_before(target):
    with staged_store(target) as unfinished:
        fill(unfinished, 5)
        assert not stands(target)
        assert ROOT not in names(target)
    assert stands(target)
    assert value(target) == 5
    assert names(target) == {ROOT, "values/zarr.json", "values/c/0", "values/c/1"}


def test_a_making_that_fails_leaves_nothing(target):
    def fail() -> None:
        with staged_store(target) as unfinished:
            fill(unfinished, 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(target) == set()


def test_what_a_killed_making_left_is_no_store_and_is_swept(target):
    kill_while_making(target)
    assert not stands(target)
    assert len(names(target)) > 1
    with staged_store(target) as unfinished:
        fill(unfinished, 6)
    assert value(target) == 6
    assert not [name for name in names(target) if name.startswith("left")]


def test_a_replacement_that_was_killed_leaves_no_half_of_either(target):
    with staged_store(target) as unfinished:
        fill(unfinished, 1)
    kill_while_making(target, "replace")
    assert not stands(target)
    with staged_store(target) as unfinished:
        fill(unfinished, 2)
    assert value(target) == 2


def test_a_store_is_replaced(target):
    for number in (1, 2):
        with staged_store(target, replace=number == 2) as unfinished:
            fill(unfinished, number)
    assert value(target) == 2


def test_two_do_not_make_the_same_store(target):
    with staged_store(target) as unfinished:
        fill(unfinished, 1)
        with pytest.raises(StoreHeldError), staged_store(target):
            pass
    assert value(target) == 1


def test_what_is_not_ours_is_never_removed(target):
    (target / "thesis.tex").write_bytes(b"years of work")
    assert stands(target)
    with pytest.raises(InputError, match="something appeared there"), staged_store(target):
        pass
    assert (target / "thesis.tex").read_bytes() == b"years of work"


def test_a_store_is_not_replaced_unasked(target):
    with staged_store(target) as unfinished:
        fill(unfinished, 1)
    with pytest.raises(InputError, match="something appeared there"), staged_store(target):
        pass
    assert value(target) == 1


def test_who_lost_the_lease_neither_writes_nor_removes(target, monkeypatch):
    def lose() -> None:
        with staged_store(target) as unfinished:
            fill(unfinished, 1)
            monkeypatch.setattr(lease, "LEASE_SECONDS", -1.0)
            fill_more = zarr.open_group(zarr_store(unfinished), mode="r+")
            with pytest.raises(InfrastructureError, match="lease on this store was lost"):
                fill_more["values"][:] = 3

    with pytest.raises(InfrastructureError, match="lease on this store was lost"):
        lose()
    assert not stands(target)
    assert "values/c/0" in names(target)  # for whoever has the lease now


def test_the_mark_of_a_making_killed_at_its_very_end_is_swept(target):
    with staged_store(target) as unfinished:
        fill(unfinished, 1)
    (target / UNFINISHED_ROOT).write_bytes(b"{}")
    assert stands(target)
    sweep(target)
    assert UNFINISHED_ROOT not in names(target)
    assert value(target) == 1
