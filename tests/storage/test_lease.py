"""Leases: one holder at a time, renewed, lost, and taken over from the dead."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from hlmm_scan.errors import InfrastructureError, StoreHeldError
from hlmm_scan.storage import ObjectPath, lease, place
from hlmm_scan.storage.lease import held_alone, held_together

HOLDER = """
import sys, time
from hlmm_scan.storage import place
from hlmm_scan.storage.lease import held_alone
with held_alone(place(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(bucket) -> ObjectPath:
    return place(bucket)


def quicken(monkeypatch, seconds: float, renewal: float, clocks: float = 0.0) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", seconds)
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", renewal)
    monkeypatch.setattr(lease, "CLOCK_SECONDS", clocks)


def unanswered(*_: object) -> None:
    raise OSError(errno.EIO, "no answer")


def pretend_elsewhere(store: ObjectPath, name: str = "alone") -> None:
    """Make a lease look like that of another machine, whose processes nobody can see."""
    path = store / lease.FOLDER / name
    content = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**content, "machine": "another", "token": "theirs"}).encode())


def test_who_wants_what_is_held_is_told_who_holds_it(store):
    with held_alone(store):
        for other in (held_alone(store), held_together(store, "shard 1 of 2")):
            with pytest.raises(StoreHeldError, match="another run holds this store") as caught:
                other.__enter__()
            assert str(caught.value).startswith(f"{store}: ")
            assert "process " in str(caught.value)
    with held_alone(store) as again:
        again.check()


def test_shards_hold_a_store_together_and_keep_off_who_wants_it_alone(store):
    with ExitStack() as shards:
        for index in range(3):
            shards.enter_context(held_together(store, f"shard {index} of 3"))
        with pytest.raises(StoreHeldError, match=r"shard \d of 3: process"), held_alone(store):
            pass
        # Refused, it left nothing that would keep off the next shard.
        with held_together(store, "late"):
            pass
    with held_alone(store):
        names = list((store / lease.FOLDER).objects())
    assert names == ["alone"]


def test_what_a_killed_process_of_this_machine_held_is_free_at_once(store):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StoreHeldError, match=f"process {process.pid} "), held_alone(store):
            pass
        process.kill()
        process.wait()
        with held_alone(store) as mine:
            mine.check()


def test_what_could_not_be_given_back_is_free_for_this_process(store, monkeypatch):
    with held_alone(store):
        monkeypatch.setattr(ObjectPath, "replace", unanswered)
    monkeypatch.undo()
    assert not json.loads((store / lease.FOLDER / "alone").read_bytes())["released"]
    with held_alone(store) as mine:
        mine.check()


def test_elsewhere_a_dead_holder_is_waited_for(store, monkeypatch):
    quicken(monkeypatch, seconds=1.0, renewal=30.0, clocks=1.0)
    with held_alone(store):
        pretend_elsewhere(store)
        with pytest.raises(StoreHeldError), held_alone(store):
            pass
        time.sleep(3.1)  # the store's clock tells whole seconds
        with held_alone(store) as mine:
            mine.check()


def test_of_many_that_take_over_one_wins(store, monkeypatch):
    with held_alone(store):
        pass
    quicken(monkeypatch, seconds=60.0, renewal=30.0)
    stack = ExitStack()

    def take(_: int) -> bool:
        try:
            stack.enter_context(held_alone(store))
        except StoreHeldError:
            return False
        return True

    with stack, ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 1


def test_what_another_thread_has_just_taken_is_not_left_over(store, monkeypatch):
    """Between writing a lease and anything after it, another thread may look at it."""
    create, seen = ObjectPath.create, []

    def created(path, data):
        version = create(path, data)
        seen.append(lease._abandoned(path))
        return version

    monkeypatch.setattr(ObjectPath, "create", created)
    with held_alone(store):
        assert seen == [None]


def test_a_lease_is_renewed_while_it_is_held(store, monkeypatch):
    quicken(monkeypatch, seconds=2.0, renewal=0.1)
    with held_alone(store) as mine:
        before = (store / lease.FOLDER / "alone").read_bytes()
        time.sleep(2.5)
        mine.check()
        assert (store / lease.FOLDER / "alone").read_bytes() != before


def test_who_lost_the_lease_writes_no_more(store, monkeypatch):
    quicken(monkeypatch, seconds=60.0, renewal=0.05)
    with held_alone(store) as mine:
        pretend_elsewhere(store)
        end = time.monotonic() + 5
        while not mine._lost and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(InfrastructureError, match="another run took it over") as caught:
            mine.check()
    assert caught.value.exit_code == 4
    # What the other has written stays: nobody gives back what is not his.
    assert json.loads((store / lease.FOLDER / "alone").read_bytes())["token"] == "theirs"


def test_who_cannot_renew_the_lease_writes_no_more(store, monkeypatch):
    quicken(monkeypatch, seconds=0.5, renewal=30.0)
    with held_alone(store) as mine:
        mine.check()
        time.sleep(0.6)
        with pytest.raises(InfrastructureError, match="the object store did not answer"):
            mine.check()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock that counts sleep here")
def test_a_machine_that_slept_through_its_lease_writes_no_more(store, monkeypatch):
    """While it sleeps, of all clocks of a process only that one goes on."""
    real, slept = time.clock_gettime, 0.0

    def clock_gettime(clock: int) -> float:
        return real(clock) + (slept if clock == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", clock_gettime)
    with held_alone(store) as mine:
        slept = lease.LEASE_SECONDS - 5
        mine.check()
        slept = lease.LEASE_SECONDS + 1
        with pytest.raises(InfrastructureError, match="run the same command again"):
            mine.check()
