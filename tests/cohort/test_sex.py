"""Sex from the genotypes and from tables; cohorts with sex, and of one sex."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from hlmm_scan.cohort.cohort import assemble
from hlmm_scan.cohort.derived import restricted, with_covariate_in_both
from hlmm_scan.cohort.sex import read_sex, sex_of
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds


def ids(*names):
    return np.array(names, dtype=object)


@pytest.mark.parametrize(
    "text",
    [
        "FID\tIID\tsex\nf\ta\t1\nf\tb\t2\nf\tc\tNA\n",
        "#FID IID SEX\nf a male\nf b Female\nf c 0\n",
        "FID,IID,age,sex\nf,a,3,M\nf,b,4,F\nf,c,5,\n",
        "f a 1\nf b 2\nf c -9\n",
        "f a 0 0 1 2.5\nf b 0 0 2 1\nf c 0 0 0 -9\n",
        "\nFID\tIID\tanything\r\nf\ta\t1\r\nf\tb\t2\r\nf\tc\t.\r\n",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_tables_of_many_shapes(tmp_path, text, packed):
    path = tmp_path / "sex"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    people = read_sex(path)
    assert people.individual_id.tolist() == ["a", "b", "c"]
    assert people.family_id is not None
    assert people.family_id.tolist() == ["f"] * 3
    assert people.sex.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("IID sex\n", "header but no people"),
        ("IID sex\na 1\nb 3\n", "line 3: '3' is no sex"),
        ("IID sex\na 1\nb\n", "line 3: expected 2 fields, found 1"),
        ("IID age weight\na 1 2\n", "line 1: there is no column 'sex'"),
        ("FID sex\na 1\n", "IID must follow FID"),
        ("a 1\n", "line 1: 'a 1' is no sex"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "sex"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_sex(path)


def test_a_table_stands_in_place_of_the_genotypes(tmp_path):
    samples = SampleIds(ids("a", "b", "c", "d"), None, np.array([1, 1, 2, 0], np.int8))
    assert sex_of(samples, None).codes.tolist() == [1, 1, 2, 0]
    path = tmp_path / "sex"
    path.write_text("IID sex\nb 2\nc NA\nx 1\n")
    told = sex_of(samples, path)
    assert told.codes.tolist() == [1, 2, 2, 0]
    assert told.fingerprint != sex_of(samples, None).fingerprint
    path.write_text("IID sex\nx 1\n")
    with pytest.raises(InputError, match="no person of"):
        sex_of(samples, path)


@pytest.fixture
def cohort(tmp_path):
    rng = np.random.default_rng(2)
    n = 40
    names = ids(*(f"p{k}" for k in range(n)))
    sex = rng.integers(1, 3, n)
    lines = ["IID y"] + [f"p{k} {rng.normal()}" for k in range(n)]
    (tmp_path / "y").write_text("\n".join(lines))
    lines = ["IID age female"] + [f"p{k} {rng.normal()} {sex[k] - 1}" for k in range(n)]
    (tmp_path / "x").write_text("\n".join(lines))
    table = read_table(tmp_path / "x")
    samples = SampleIds(names)
    made = assemble(samples, read_table(tmp_path / "y"), "y", table, table.select(["age"]))
    return made, sex


def test_sex_joins_the_designs_that_do_not_have_it(cohort):
    cohort, sex = cohort
    sexed = with_covariate_in_both(cohort, "sex", sex.astype(float))
    assert sexed.mean_design is cohort.mean_design  # 'female' is there
    assert sexed.variance_design.names == ("intercept", "age", "sex")
    assert np.array_equal(sexed.variance_design.matrix[:, :2], cohort.variance_design.matrix)
    column = sexed.variance_design.matrix[:, 2]
    assert np.allclose(column, (sex - sex.mean()) / sex.std())
    assert with_covariate_in_both(cohort, "sex", np.ones(len(sex))) is cohort


def test_people_of_one_sex_lose_the_covariates_that_told_them_apart(cohort):
    cohort, sex = cohort
    males = restricted(cohort, sex == 1, "not_male")
    assert males is not None
    assert len(males) == np.count_nonzero(sex == 1)
    assert males.mean_design.names == ("intercept", "age")
    age = males.mean_design.matrix[:, 1]
    assert abs(age.mean()) < 1e-12
    assert np.isclose(age.std(), 1)
    raw = cohort.mean_design.matrix[:, 1] * cohort.mean_design.scales[1]
    raw += cohort.mean_design.centres[1]
    assert np.allclose(
        age * males.mean_design.scales[1] + males.mean_design.centres[1], raw[sex == 1]
    )
    assert dict(males.dropped)["not_male"] == np.count_nonzero(sex == 2)
    assert sum(count for _, count in males.dropped) + len(males) == males.n_reference
    assert restricted(cohort, np.ones(len(sex), bool), "none") is cohort
    few = np.zeros(len(sex), bool)
    few[:4] = True
    assert restricted(cohort, few, "few") is None
