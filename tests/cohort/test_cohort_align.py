"""Finding people by their ids."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.table import Table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds


def people(*ids):
    """SampleIds of "FID/IID" or "IID" strings."""
    pairs = [i.split("/") for i in ids]
    family = np.array([p[0] for p in pairs], object) if "/" in ids[0] else None
    return SampleIds(np.array([p[-1] for p in pairs], object), family)


def table(*ids):
    who = people(*ids)
    values = np.arange(float(len(ids)))[:, None]
    return Table(Path("p.tsv"), who.family_id, who.individual_id, ("x",), values, "")


@pytest.mark.parametrize("kind", [people, table])
def test_family_and_individual_ids(kind):
    rows = match(people("f/1", "f/2", "g/1", "h/9"), kind("g/1", "q/2", "f/1", "f/01"))
    assert rows.tolist() == [2, -1, 0, -1]
    assert rows.dtype == np.int64


@pytest.mark.parametrize("kind", [people, table])
def test_individual_ids_where_one_side_has_no_family(kind):
    assert match(people("f/1", "g/2"), kind("3", "2", "1")).tolist() == [2, 1]
    assert match(people("1", "2"), kind("f/2", "g/3")).tolist() == [-1, 0]


def test_ambiguous_people_are_refused():
    hint = "; people are aligned by IID, as one side has no FID"
    for samples, other, expected in [
        (people("f/1", "g/1"), table("2", "1"), "IID '1' occurs more than once in the genotypes"),
        (people("2", "1"), table("f/1", "g/1"), "IID '1' occurs more than once in p.tsv"),
        (people("1", "1"), people("1"), "IID '1' occurs more than once in the genotypes"),
        (people("1"), people("1", "1"), "IID '1' occurs more than once in the other dataset"),
    ]:
        with pytest.raises(InputError) as error:
            match(samples, other)
        assert str(error.value) == expected + hint
    with pytest.raises(InputError) as error:
        match(people("f/1"), people("f/1", "f/1"), other_name="r.zarr")
    assert str(error.value) == "FID 'f' IID '1' occurs more than once in r.zarr"


def test_people_who_occur_twice_on_one_side_only_do_no_harm():
    assert match(people("f/0", "g/0", "h/1"), table("1", "2")).tolist() == [-1, -1, 0]
    assert match(people("3", "1"), table("f/0", "g/0", "h/1", "h/2", "h/3")).tolist() == [4, 2]


def test_the_same_individual_id_in_two_families_is_two_people():
    assert match(people("f/1", "g/1"), table("g/1", "f/1")).tolist() == [1, 0]


def test_ids_do_not_run_together():
    with pytest.raises(InputError, match="no person"):
        match(people("a/bc"), table("ab/c"))


def test_no_overlap_shows_an_example_of_each_side():
    with pytest.raises(InputError) as error:
        match(people("f/1", "g/2"), table("0/1", "0/2"))
    assert str(error.value) == (
        "no person of p.tsv is in the genotypes: the first is FID '0' IID '1' there and "
        "FID 'f' IID '1' here; by IID alone 2 would match (leave the FID column out for that)"
    )
    with pytest.raises(InputError) as error:
        match(people("1"), people("a"), samples_name="geno.zarr", other_name="random.zarr")
    assert str(error.value) == (
        "no person of random.zarr is in geno.zarr: the first is IID 'a' there and IID '1' here"
    )
    with pytest.raises(InputError, match="the first is IID '1' there and nobody here"):
        match(SampleIds(np.zeros(0, object)), people("1"))


@given(
    st.lists(st.integers(0, 30), unique=True, min_size=1),
    st.lists(st.integers(0, 30), unique=True, min_size=1),
    st.booleans(),
)
def test_like_a_dictionary(wanted, offered, family):
    prefix = "f/" if family else ""
    place = {i: row for row, i in enumerate(offered)}
    expected = [place.get(i, -1) for i in wanted]
    sides = people(*(f"{prefix}{i}" for i in wanted)), table(*(f"{prefix}{i}" for i in offered))
    if max(expected) < 0:
        with pytest.raises(InputError, match="no person"):
            match(*sides)
    else:
        assert match(*sides).tolist() == expected
