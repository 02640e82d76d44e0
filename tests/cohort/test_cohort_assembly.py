"""Who is analysed for a phenotype, and who is not and why."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.cohort.cohort import REASONS, CohortBuilder, assemble
from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds


def samples(n=40):
    return SampleIds(
        np.array([f"i{k}" for k in range(n)], object), np.array([f"f{k}" for k in range(n)], object)
    )


def table(values, who=None, names=None, family=True):
    """A table of the people whose numbers are given."""
    values = np.asarray(values, float)
    who = range(len(values)) if who is None else who
    names = names or tuple(f"x{j}" for j in range(values.shape[1]))
    family_id = np.array([f"f{k}" for k in who], object) if family else None
    individual_id = np.array([f"i{k}" for k in who], object)
    return Table(Path("t.tsv"), family_id, individual_id, tuple(names), values, "")


def normal(n=40, p=1, seed=0):
    return np.random.default_rng(seed).normal(size=(n, p))


def refused(*args, **options):
    with pytest.raises(InputError) as error:
        assemble(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_everybody():
    y = normal()
    cohort = assemble(samples(), table(y, names=["t"]), "t")
    np.testing.assert_array_equal(cohort.samples, np.arange(40))
    assert cohort.samples.dtype == np.int64
    np.testing.assert_array_equal(cohort.y, y[:, 0])
    assert cohort.dropped == tuple((reason, 0) for reason in REASONS)
    assert (len(cohort), cohort.n_reference, cohort.not_in_genotypes) == (40, 40, 0)
    assert cohort.mean_design.names == cohort.variance_design.names == ("intercept",)
    with pytest.raises(ValueError, match="read-only"):
        cohort.y[0] = 0


def test_every_reason_counts_a_person_once():
    y, x, v = normal(40), normal(40, 2, 1), normal(40, 1, 2)
    y[[1, 2]] = np.nan
    x[[2, 4], 1] = np.nan
    v[[4, 6]] = np.nan
    available = np.ones(40, bool)
    available[[0, 7]] = False
    wishes = {reason: np.ones(40, bool) for reason in REASONS[:4]}
    wishes["not_kept"][8] = False
    wishes["removed"][8:11] = False
    wishes["sex_unknown"][11] = wishes["other_sex"][11:13] = False
    everybody = np.arange(40)
    mean = everybody[(everybody != 1) & (everybody != 3)]
    variance = everybody[everybody != 5]
    cohort = assemble(
        samples(),
        table(y[1:], everybody[1:], ["t"]),  # 0 is absent, and not available either
        "t",
        table(x[mean], mean),
        table(v[variance], variance),
        restrictions={"not_in_random_effects": available, **wishes},
    )
    assert tuple((reason, count) for reason, count in cohort.dropped if count) == (
        ("not_kept", 1),  # 8
        ("removed", 2),  # 9, 10
        ("sex_unknown", 1),  # 11
        ("other_sex", 1),  # 12
        ("not_in_phenotype_table", 1),  # 0
        ("phenotype_missing", 2),  # 1, 2
        ("not_in_mean_covariates", 1),  # 3
        ("mean_covariate_missing", 1),  # 4
        ("not_in_variance_covariates", 1),  # 5
        ("variance_covariate_missing", 1),  # 6
        ("not_in_random_effects", 1),  # 7
    )
    np.testing.assert_array_equal(cohort.samples, np.arange(13, 40))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_values_follow_their_people(data):
    """Tables in any order, some people absent, others unknown: the same as looking them up."""
    n = 60  # of whom enough are left to analyse, whoever is absent
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    tables = []
    for p in (2, 2, 1):
        who = rng.permutation(n + 5)[: data.draw(st.integers(50, n + 5))]
        values = rng.normal(size=(len(who), p))
        values[rng.random(values.shape) < 0.03] = np.nan
        tables.append(table(values, who, family=data.draw(st.booleans())))
    available = rng.random(n) < 0.9
    given = {"restrictions": {"not_in_random_effects": available}}
    cohort = assemble(samples(n), tables[0], "x1", tables[1], tables[2], **given)

    books = [
        dict(zip(t.individual_id, t.values[:, 1:] if k == 0 else t.values, strict=True))
        for k, t in enumerate(tables)
    ]
    expected = [
        k
        for k in range(n)
        if available[k] and all(f"i{k}" in b and np.isfinite(b[f"i{k}"]).all() for b in books)
    ]
    assert cohort.samples.tolist() == expected
    rows = [[b[f"i{k}"] for k in expected] for b in books]
    np.testing.assert_array_equal(cohort.y, np.ravel(rows[0]))
    for design, raw in ((cohort.mean_design, rows[1]), (cohort.variance_design, rows[2])):
        back = design.matrix * design.scales + design.centres
        np.testing.assert_allclose(back[:, 1:], raw, atol=1e-12)
    assert sum(count for _, count in cohort.dropped) + len(cohort) == n
    assert tuple(reason for reason, _ in cohort.dropped) == REASONS
    assert cohort.not_in_genotypes == sum(int(i[1:]) >= n for i in tables[0].individual_id)


def test_a_phenotype_does_not_depend_on_the_others():
    y = normal(40, 3)
    y[:20, 1] = np.nan
    covariates = table(normal(40, 2, 1))
    alone = assemble(samples(), table(y[:, [2]], names=["c"]), "c", covariates)
    builder = CohortBuilder(samples(), table(y, names="abc"), covariates)
    assert [len(builder.build(name)) for name in "ab"] == [40, 20]
    beside = builder.build("c")
    np.testing.assert_array_equal(alone.y, beside.y)
    np.testing.assert_array_equal(alone.mean_design.matrix, beside.mean_design.matrix)


def test_one_table_may_serve_mean_and_variance():
    covariates = table(normal(40, 2, 1))
    cohort = assemble(samples(), table(normal(), names=["t"]), "t", covariates, covariates)
    np.testing.assert_array_equal(cohort.mean_design.matrix, cohort.variance_design.matrix)


def test_one_log_line_with_the_counts(caplog):
    caplog.set_level(logging.INFO)
    y = normal(42)
    y[:2] = np.nan
    assemble(samples(), table(y, np.arange(1, 43), ["t"]), "t")
    assert caplog.messages == [
        "t: 37 of 40 people analysed (1 not_in_phenotype_table, 2 phenotype_missing); "
        "3 people of the phenotype table are not in the genotypes"
    ]


@pytest.mark.parametrize(
    ("y", "problem"),
    [
        (np.arange(40) % 2, "takes only two values"),
        (np.where(np.arange(40) < 24, 0.0, np.arange(40)), "has one value in 60% of people"),
        (np.arange(40) % 5, "takes only 5 values"),
    ],
)
def test_phenotypes_far_from_continuous_are_warned_of(caplog, y, problem):
    assert len(assemble(samples(), table(y[:, None], names=["t"]), "t")) == 40
    assert caplog.messages == [
        f"t {problem} among the 40 people analysed: the models assume a continuous phenotype, "
        "and its variance is bound to its mean"
    ]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_phenotypes_of_all_scales(scale, mean):
    y = normal() * scale + mean
    cohort = assemble(samples(), table(y, names=["t"]), "t", table(normal(40, 2, 1)))
    np.testing.assert_array_equal(cohort.y, y[:, 0])


# --- what is refused ----------------------------------------------------------------------------


def test_unknown_phenotype():
    assert refused(samples(), table(normal(), names=["height"]), "heigth") == (
        "unknown phenotype 'heigth' in t.tsv; did you mean 'height'?"
    )


def test_nobody_left():
    y = np.full((39, 1), np.nan)
    assert refused(samples(), table(y, names=["t"]), "t") == (
        "nobody is left to analyse for t, of 40 people in the genotypes: "
        "1 not_in_phenotype_table, 39 phenotype_missing"
    )


def test_no_overlap():
    assert refused(samples(), table(normal(), np.arange(40, 80), ["t"]), "t") == (
        "no person of t.tsv is in the genotypes: the first is FID 'f40' IID 'i40' there and "
        "FID 'f0' IID 'i0' here"
    )


def test_fewer_people_than_parameters():
    few = samples(7)
    phenotypes = table(normal(7), names=["t"])
    assert refused(few, phenotypes, "t", table(normal(7, 3, 1)), table(normal(7, 1, 2))) == (
        "fewer people than parameters: 7 people are analysed for t, with 8 parameters "
        "(mean 4, variance 2, test genotype 2)"
    )
    assert len(assemble(few, phenotypes, "t", table(normal(7, 3, 1)))) == 7


@pytest.mark.parametrize("value", [0.0, 5.0, 0.1])
def test_constant_phenotype(value):
    y = np.full((40, 1), value)
    y[3] = np.nan
    assert refused(samples(), table(y, names=["t"]), "t") == (
        f"phenotype 't' is constant ({value:g}) among the 39 people analysed"
    )


def test_covariates_are_judged_among_the_people_analysed(caplog):
    y, x = normal(), normal(40, 2, 1)
    y[0] = np.nan
    x[1:, 1] = 3
    line = "covariate 'x1' is constant among the 39 people analysed for t"
    strictly = {"strict": True}
    assert refused(samples(), table(y, names=["t"]), "t", table(x), **strictly) == f"mean {line}"
    assert (
        refused(samples(), table(y, names=["t"]), "t", None, table(x), **strictly)
        == f"variance {line}"
    )
    # Otherwise it is left out of this phenotype, and stays in others.
    caplog.set_level("INFO")
    other = normal()
    builder = CohortBuilder(
        samples(), table(np.hstack([y, other]), names=["t", "u"]), table(x), table(x)
    )
    assert builder.build("t").mean_design.names == ("intercept", "x0")
    assert builder.build("t").variance_design.names == ("intercept", "x0")
    assert "t: covariate 'x1' is left out: it is the same in all 39" in caplog.text
    assert builder.build("u").mean_design.names == ("intercept", "x0", "x1")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_phenotype_among_its_own_covariates(scale):
    x = normal(40, 3, 1)
    y = (x[:, [0]] - 2 * x[:, [2]] + 7) * scale
    assert refused(samples(), table(y, names=["t"]), "t", table(x)) == (
        "phenotype 't' is a linear combination of the mean covariates"
    )


def test_a_mask_of_the_wrong_length():
    with pytest.raises(ValueError, match="shape"):
        CohortBuilder(samples(), table(normal()), restrictions={"removed": np.ones(3, bool)})


# --- real data ----------------------------------------------------------------------------------


def test_mouse(shared_data):
    mouse = shared_data / "mouse"
    fam = [line.split() for line in (mouse / "mouse_hs1940.fam").read_text().splitlines()]
    people = SampleIds(
        np.array([line[1] for line in fam], object), np.array([line[0] for line in fam], object)
    )
    builder = CohortBuilder(people, read_table(mouse / "pheno.tsv"))
    cohort = builder.build("trait1")
    assert (len(cohort), cohort.not_in_genotypes) == (1410, 0)
    assert dict(cohort.dropped)["phenotype_missing"] == 530
    in_fam = np.array([float(fam[k][5]) for k in cohort.samples])
    np.testing.assert_allclose(cohort.y, in_fam, rtol=1e-12)
    order = np.random.default_rng(0).permutation(len(fam))
    shuffled = SampleIds(people.individual_id[order], people.family_id[order])
    other = CohortBuilder(shuffled, read_table(mouse / "pheno.tsv")).build("trait1")
    assert dict(zip(order[other.samples], other.y, strict=True)) == dict(
        zip(cohort.samples, cohort.y, strict=True)
    )
