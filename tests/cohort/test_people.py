"""Lists of people to keep and to remove, and one sex only."""

import logging

import numpy as np
import pytest

from hlmm_scan.cohort.people import read_people, restrictions
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds


def samples(n=8, sex=None):
    ids = [np.array([f"{letter}{k}" for k in range(n)], object) for letter in "if"]
    return SampleIds(*ids, np.zeros(n, np.int8) if sex is None else np.array(sex, np.int8))


@pytest.fixture
def people(tmp_path):
    def read(text, name="people.txt"):
        path = tmp_path / name
        path.write_text(text)
        return path, read_people(path)[0]

    return read


def refused(call, *args, **options):
    with pytest.raises(InputError) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("i1\ni3\n", False),
        ("IID\n\ni3\ni1\ni3\n", False),
        ("#IID\ti1\ni1\ti3\ni3\tx\n", False),  # further columns are not read
        ("f1 i1\nf3   i3\n", True),
        ("#FID\tIID\nf1\ti1\nf3\ti3\n", True),
        ("f1,i1\nf3,i3", True),
        ("f1 i1 0 0 1 -9\nf3 i3 0 0 2 -9\r\n", True),
    ],
)
def test_lists(people, text, family):
    path, found = people(text)
    assert sorted(found.individual_id) == ["i1", "i3"]
    assert (found.family_id is not None) == family
    for option, reason in (("keep", "not_kept"), ("remove", "removed")):
        passing = restrictions(samples(), **{option: (path, found)})
        listed = np.isin(np.arange(8), [1, 3])
        np.testing.assert_array_equal(passing[reason], listed == (option == "keep"))


def test_people_of_another_family_are_others(people):
    path, found = people("f1 i1\nf2 i3\n")
    np.testing.assert_array_equal(
        np.flatnonzero(restrictions(samples(), keep=(path, found))["not_kept"]), [1]
    )


def test_those_who_are_not_there_are_counted(people, caplog):
    kept = people("i1\ni3\nq1\nq2\n", "keep.txt")
    withdrawn = people("q7\ni2\n", "remove.txt")
    passing = restrictions(samples(), keep=kept, remove=withdrawn)
    assert passing["removed"].sum() == 7
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.WARNING, f"{kept[0]}: 2 of its 4 people are not in the genotypes"),
        (logging.WARNING, f"{withdrawn[0]}: 1 of its 2 people are not in the genotypes"),
    ]


def test_what_is_refused(people, tmp_path):
    folder = f"{tmp_path}/"

    def line(call, *args, **options):
        return refused(call, *args, **options).replace(folder, "")

    (tmp_path / "short.txt").write_text("f1 i1\n\nf2\n")
    assert line(read_people, tmp_path / "short.txt") == (
        "short.txt, line 3: expected FID IID, found 'f2'"
    )
    assert line(read_people, tmp_path / "absent") == "absent: no such file"
    assert line(restrictions, samples(), keep=people("\n")) == (
        "people.txt: nobody is in it to keep"
    )
    assert line(restrictions, samples(), remove=people("\n")) == (
        "people.txt: nobody is in it to remove"
    )
    for option in ("keep", "remove"):
        for text in ("q1\n", "i1.0\n", "i1;i1\n"):
            assert line(restrictions, samples(), **{option: people(text)}).startswith(
                "no person of people.txt is in the genotypes"
            )
        assert line(restrictions, samples(), **{option: people("0 i1\n0 i3\n")}).endswith(
            "by IID alone 2 would match (leave the FID column out for that)"
        )
    twins = SampleIds(np.array(["a", "a"], object), np.array(["f", "g"], object))
    for option in ("keep", "remove"):
        assert line(restrictions, twins, **{option: people("a\n")}) == (
            "IID 'a' occurs more than once in the genotypes; people are aligned by IID, as one "
            "side has no FID"
        )


def test_one_sex():
    who = samples(6, [1, 2, 0, 2, 1, 0])
    passing = restrictions(who, only_sex="female")
    assert list(passing) == ["sex_unknown", "other_sex"]
    np.testing.assert_array_equal(passing["sex_unknown"], [1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(passing["other_sex"], [0, 1, 0, 1, 0, 0])
    assert refused(restrictions, samples(), only_sex="male") == (
        "only_sex male: the genotypes say nobody's sex"
    )
