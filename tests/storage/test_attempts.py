"""Which errors pass, that they are tried again and counted, and what the others say."""

from __future__ import annotations

import errno
import os

import pytest
from object_server import Faults, environment, failing_proxy

from hlmm_scan import storage
from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.storage import attempts, place, places
from hlmm_scan.storage.opening import zarr_store
from hlmm_scan.storage.places import client


@pytest.fixture
def through(bucket, object_store, monkeypatch):
    """Put a failing proxy before the store; gives the address, and takes the faults."""
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.001)
    opened = []

    def begin(faults: Faults) -> storage.ObjectPath:
        proxy = failing_proxy(object_store, faults)
        port = proxy.__enter__()
        opened.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment(port)["AWS_ENDPOINT_URL"])
        client.cache_clear()
        return place(bucket)

    yield begin
    for proxy in opened:
        proxy.__exit__(None, None, None)


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTUNREACH]
)
def test_errors_of_lost_servers_pass(number):
    error = OSError(number, os.strerror(number))
    assert storage.transient(error)
    wrapped = InfrastructureError("store: cannot be written")
    wrapped.__cause__ = error
    assert storage.transient(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        PermissionError(errno.EACCES, "no"),
        FileNotFoundError(errno.ENOENT, "none"),
        ValueError("HTTP error"),
        InputError("wrong"),
        KeyError("x"),
    ],
)
def test_what_the_user_must_mend_does_not_pass(error):
    assert not storage.transient(error)


@pytest.mark.parametrize("kind", ["500", "503", "cut", "lost", "torn", "slow"])
def test_whatever_fails_half_of_the_time_succeeds_and_is_counted(through, monkeypatch, kind):
    if kind == "slow":
        monkeypatch.setattr(places, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(attempts, "ATTEMPTS", 20)
    faults = Faults(share=0.0, kinds=(kind,), slow_seconds=0.5, seed=7)
    store = through(faults)
    (store / "object").write_bytes(b"x" * 1000)
    faults.share = 0.5
    before = storage.retries()
    for _ in range(4):
        assert (store / "object").read_bytes() == b"x" * 1000
    assert faults.done[kind] >= 2
    counted = storage.retries() - before
    # On a busy machine an answer that is not held up may take too long as well.
    assert counted == faults.done[kind] or (kind == "slow" and counted > faults.done[kind])


def test_zarr_reads_and_writes_through_faults(through):
    import numpy as np
    import zarr

    faults = Faults(share=0.2, seed=3)
    store = through(faults)
    group = zarr.create_group(zarr_store(store / "g"), zarr_format=3)
    values = np.arange(60.0).reshape(6, 10)
    group.create_array("values", shape=(6, 10), chunks=(1, 10), dtype="f8")[...] = values
    before = storage.retries()
    again = zarr.open_group(zarr_store(store / "g", read_only=True), mode="r")
    np.testing.assert_array_equal(again["values"][...], values)
    assert [name for name, _ in again.members()] == ["values"]
    assert storage.retries() > before


def test_a_server_that_never_answers_is_an_error_that_says_so(through, monkeypatch):
    monkeypatch.setattr(attempts, "ATTEMPTS", 3)
    store = through(Faults(share=1.0, kinds=("503",)))
    before = storage.retries()
    with pytest.raises(OSError, match="503 Service Unavailable") as caught:
        (store / "object").read_bytes()
    assert storage.retries() - before == 2
    assert storage.transient(caught.value)
    assert caught.value.filename == f"{store}/object"
    assert "127.0.0.1" not in str(caught.value)


def test_no_attempt_is_begun_after_its_time(through, monkeypatch):
    monkeypatch.setattr(attempts, "SECONDS", 0.0)
    store = through(Faults(share=1.0, kinds=("500",)))
    before = storage.retries()
    with pytest.raises(OSError, match="500"):
        store.exists()
    assert storage.retries() == before


def test_a_server_that_is_not_there_passes_as_well(bucket, monkeypatch):
    monkeypatch.setattr(attempts, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    client.cache_clear()
    with pytest.raises(OSError, match="no connection") as caught:
        place(bucket).exists()
    assert storage.transient(caught.value)


def test_a_bucket_that_is_not_there_is_the_users_to_mend(bucket):
    del bucket
    with pytest.raises(FileNotFoundError, match="NoSuchBucket") as caught:
        place("s3://no-such-bucket/x").write_bytes(b"")
    assert not storage.transient(caught.value)
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        list(place("s3://no-such-bucket/x").objects())


@pytest.mark.parametrize("why", ["HTTP error: error sending request", "status code: 403 Forbidden"])
def test_without_credentials_it_says_so_at_once(why):
    # Where the environment has none, machines of the cloud are asked for theirs.
    exceptions = pytest.importorskip("obstore").exceptions

    def ask() -> None:
        raise exceptions.GenericError(f"Error performing PUT http://169.254.169.254/latest - {why}")

    before = storage.retries()
    with pytest.raises(PermissionError, match="no credentials in the environment"):
        attempts.again(ask, "s3://bucket/x")
    assert storage.retries() == before
