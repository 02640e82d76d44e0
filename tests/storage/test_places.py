"""Addresses, and what object stores promise behind the words of a path."""

from __future__ import annotations

import builtins
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_server import Faults, environment, failing_proxy

from hlmm_scan.errors import InputError
from hlmm_scan.storage import ObjectPath, places, retries
from hlmm_scan.storage.opening import zarr_store
from hlmm_scan.storage.places import absolute, client, place, read_json

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/?#@:\\[]", min_codepoint=33), min_size=1
)
NAMES = NAMES.filter(
    lambda name: name not in (".", "..") and name.strip() == name and name.isprintable()
)


@given(st.sampled_from(places.SCHEMES), st.lists(NAMES, min_size=1, max_size=4))
def test_an_address_is_its_text(scheme, names):
    url = f"{scheme}://bucket/{'/'.join(names)}"
    where = place(url + "/")
    assert isinstance(where, ObjectPath)
    assert str(where) == url == str(absolute(where)) == str(pickle.loads(pickle.dumps(where)))
    assert where.name == names[-1]
    assert where.key == "/".join(names)
    assert str(where / "x") == f"{url}/x"


@pytest.mark.parametrize("text", ["results.zarr", "/data/s3:/x", "a b", Path("x")])
def test_what_has_no_scheme_is_a_path(text):
    assert place(text) == Path(text)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/x", "credentials and endpoint belong into the environment"),
        ("s3://bucket/x?X-Amz-Signature=secret", "credentials and endpoint"),
        ("s3://bucket/x#secret", "credentials and endpoint"),
        ("s3://bucket:9000/x", "credentials and endpoint"),
        ("s3://bucket", "expected s3://bucket/name"),
        ("s3:///x", "expected s3://bucket/name"),
        ("gs://bucket/a//b", "expected gs://bucket/name"),
        ("gs://bucket/a/../b", "expected gs://bucket/name"),
        ("ftp://host/x", "stores lie in folders or at s3://"),
        ("https://key:secret@host/x", "stores lie in folders"),
    ],
)
def test_a_wrong_address_is_refused_without_its_secrets(url, words):
    with pytest.raises(InputError, match=words) as caught:
        place(url)
    assert "secret" not in str(caught.value)


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.partition(".")[0] == "obstore":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    client.cache_clear()
    for use in (zarr_store, ObjectPath.exists):
        with pytest.raises(InputError, match=r"pip install 'hlmm-scan\[object-stores\]'"):
            use(place("s3://bucket/x"))


def test_objects_are_written_read_listed_and_removed(bucket, monkeypatch):
    monkeypatch.setattr(places, "_LISTED", 3)  # several pages
    store = place(bucket)
    assert not store.exists()
    names = ["a", "b%20 (é)+,=", "c/0/1", "c/0/2", "c/10", "d"]
    for name in reversed(names):
        (store / name).write_bytes(name.encode())
    # Not one of the store's, though its key begins alike.
    place(f"{bucket}-other/x").write_bytes(b"")
    assert list(store.objects()) == names
    assert [(store / name).read_bytes().decode() for name in names] == names
    assert list((store / "c").objects()) == ["0/1", "0/2", "10"]
    assert ((store / "c").is_dir(), (store / "c").is_file()) == (True, False)
    assert ((store / "d").is_dir(), (store / "d").is_file()) == (False, True)
    store.remove_below(keep=lambda name: name.startswith("c/0"))
    assert list(store.objects()) == ["c/0/1", "c/0/2"]
    (store / "c/0/1").unlink()
    with pytest.raises(FileNotFoundError, match="404"):
        (store / "c/0/1").read_bytes()
    assert place(f"{bucket}-other/x").is_file()


def test_conditions_hold_against_others(bucket):
    here = place(bucket) / "object"
    first = here.create(b"one")
    with pytest.raises(FileExistsError):
        here.create(b"two")
    second = here.replace(b"three", first)
    with pytest.raises(FileExistsError):
        here.replace(b"four", first)
    assert here.read() == (b"three", second)
    with pytest.raises(FileExistsError):
        (here / "absent").replace(b"five", first)


def test_of_many_that_create_at_once_one_wins(bucket):
    here = place(bucket) / "object"

    def create(number: int) -> bool:
        try:
            here.create(b"%d" % number)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert sum(won) == 1
    assert here.read_bytes() == b"%d" % won.index(True)


def test_a_write_whose_answer_was_lost_is_known_as_ours(bucket, object_store, monkeypatch):
    faults = Faults(share=1.0, kinds=("lost",))

    def one_fault() -> str:
        faults.share, before = 0.0, faults.share
        return "lost" if before else ""

    monkeypatch.setattr(faults, "next", one_fault)
    with failing_proxy(object_store, faults) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment(port)["AWS_ENDPOINT_URL"])
        client.cache_clear()
        here, before = place(bucket) / "object", retries()
        version = here.create(b"ours")
        faults.share = 1.0
        assert here.replace(b"ours too", version)
        assert here.read_bytes() == b"ours too"
        assert retries() - before == 2


def test_json_that_is_absent_or_none_reads_as_none(bucket, tmp_path):
    for where in (place(bucket), tmp_path):
        assert read_json(where / "absent") is None
        (where / "half").write_bytes(b'{"a":')
        assert read_json(where / "half") is None
        (where / "whole").write_bytes(b'{"a": 1}')
        assert read_json(where / "whole") == {"a": 1}
