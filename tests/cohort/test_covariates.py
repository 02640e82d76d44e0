"""Levels and products of covariates: from a table's columns to those of a design."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cohort_assembly import normal, refused, samples, table

from hlmm_scan.cohort import cells
from hlmm_scan.cohort.cohort import CohortBuilder, assemble
from hlmm_scan.cohort.covariates import CovariateRules, Covariates, parse_terms
from hlmm_scan.cohort.grammar import Layout, Missing
from hlmm_scan.cohort.line_by_line import parse_lines
from hlmm_scan.cohort.options import read_options
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError


def rules(**given):
    return {"rules": CovariateRules(**{"min_level_count": 1, **given})}


@pytest.fixture
def read(tmp_path):
    def _read(text, **options):
        path = tmp_path / "c.tsv"
        path.write_text(text)
        return read_table(path, **{"categorical": (), **options})

    return _read


def covariates(read, columns, who=None, **options):
    """A table of levels and numbers of the first people of `samples`."""
    rows = list(zip(*columns.values(), strict=True))
    who = range(len(rows)) if who is None else who
    lines = ["\t".join(("FID", "IID", *columns))]
    for k, row in zip(who, rows, strict=True):
        lines.append("\t".join((f"f{k}", f"i{k}", *(str(cell) for cell in row))))
    return read("\n".join(lines) + "\n", **options)


def cohort(mean, variance=None, n=40, **options):
    return assemble(samples(n), table(normal(n), names=["t"]), "t", mean, variance, **options)


def raw(design):
    """The columns of a design as they were before they were standardised."""
    return {
        name: np.round(design.matrix[:, k] * design.scales[k] + design.centres[k], 9)
        for k, name in enumerate(design.names)
    }


# --- reading ------------------------------------------------------------------------------------


def test_columns_of_words_are_levels(read):
    found = read("IID\tcentre\tage\tflag\n1\tYork\t3\tyes\n2\t\t4\tNA\n3\tBath \t5\tno\n")
    assert found.columns == ("centre", "age", "flag")
    assert found.levels == {"centre": ("Bath", "York"), "flag": ("no", "yes")}
    expected = [[1, 3, 1], [np.nan, 4, np.nan], [0, 5, 0]]
    np.testing.assert_array_equal(found.values, expected)
    chosen = found.select(["flag", "age"])
    assert chosen.levels == {"flag": ("no", "yes")}


def test_columns_of_numbers_are_levels_where_named(read):
    text = "IID batch x\n1 01 1\n2 1 2\n3 -9 -9\n4 -9.0 3\n5 b 4\n"
    found = read(text, categorical=("batch", "elsewhere"), missing_values=("-9",))
    assert found.levels == {"batch": ("01", "1", "b")}
    np.testing.assert_array_equal(found.values[:, 0], [0, 1, np.nan, np.nan, 2])
    np.testing.assert_array_equal(found.values[:, 1], [1, 2, np.nan, 3, 4])


def test_codes_are_not_taken_for_missing_numbers(read):
    found = read("IID a x\n1 u 1\n2 v 2\n3 w 1\n", missing_values=("1",))
    np.testing.assert_array_equal(found.values[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(found.values[:, 1], [np.nan, 2, np.nan])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "IID x\n1 2\n2 3\n3 tall\n",
            "line 4, column 'x': 'tall' is not a number; "
            "--categorical x takes the column's cells for levels",
        ),
        (
            "IID x y\n1 NA 1\n2 low 2\n3 7 3\n",
            "line 4, column 'x': '7' is a number in a column that begins with words; "
            "--categorical x takes the column's cells for levels",
        ),
        ("IID x\n1 2\n2 inf\n", "line 3, column 'x': 'inf' is not finite"),
    ],
)
def test_a_column_of_words_and_numbers_is_refused(read, tmp_path, text, line):
    with pytest.raises(InputError) as error:
        read(text)
    assert str(error.value) == f"{tmp_path / 'c.tsv'}, {line}"


def test_phenotypes_are_numbers(read):
    with pytest.raises(InputError, match=r"line 2, column 'x': 'tall' is not a number$"):
        read("IID x\n1 tall\n", categorical=None)


CELL = st.sampled_from(["", "NA", "u", " v ", "v", "true", "1", "1.0", "-9", '"u"', "inf", "u w"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=5),
    st.sampled_from(["\t", ",", " "]),
    st.booleans(),
)
def test_fast_and_slow_reading_of_levels_agree(rows, separator, named):
    lines = (separator.join([f"i{k}", *row]) + "\n" for k, row in enumerate(rows))
    body = "".join(lines).encode()
    missing = Missing.of(["-9"])
    bare = Layout("t", separator, 1, ("x", "y"), 2, (0, 1))
    levels = cells.columns_of_words(body, bare, missing) | ({0} if named else set())
    layout = replace(bare, levels=frozenset(levels), named=frozenset({0} if named else ()))

    def outcome(parse):
        try:
            return parse(body, layout, missing)
        except InputError as error:
            return str(error)

    fast, slow = outcome(cells.parse_body), outcome(parse_lines)
    if isinstance(slow, str):
        assert fast == slow
        return
    assert not isinstance(fast, str), fast
    np.testing.assert_array_equal(fast.values, slow.values)
    assert fast.levels == slow.levels
    assert (fast.faults, fast.bad_columns) == (slow.faults, slow.bad_columns)
    for column in range(2):
        codes = fast.values[:, column]
        if column in levels:
            used = set(codes[~np.isnan(codes)].astype(int))
            assert used == set(range(len(fast.levels[column])))


# --- levels -------------------------------------------------------------------------------------

CENTRES = ["York"] * 15 + ["Bath"] * 20 + ["Hull"] * 5


def test_levels_become_indicators_but_for_the_most_common(read):
    t = covariates(read, {"age": range(40), "centre": CENTRES})
    design = cohort(t, t, **rules()).variance_design
    columns = raw(design)
    assert design.names == ("intercept", "age", "centre=Hull", "centre=York")
    np.testing.assert_array_equal(columns["centre=York"], [1] * 15 + [0] * 25)
    np.testing.assert_array_equal(columns["centre=Hull"], [0] * 35 + [1] * 5)
    named = cohort(t, **rules(reference={"centre": "Hull"})).mean_design
    assert named.names == ("intercept", "age", "centre=Bath", "centre=York")


def test_a_person_without_a_level_is_not_complete(read):
    t = covariates(read, {"centre": ["NA", "", *CENTRES[2:]]})
    found = cohort(t, **rules())
    assert dict(found.dropped)["mean_covariate_missing"] == 2
    assert found.mean_design.names == ("intercept", "centre=Hull", "centre=York")


def test_rare_levels_are_put_together(read, caplog):
    caplog.set_level(logging.INFO)
    levels = ["a"] * 30 + ["b"] * 3 + ["c"] * 4 + ["d"] * 3
    t = covariates(read, {"x": levels})
    design = cohort(t, t, **rules(min_level_count=10)).mean_design
    assert design.names == ("intercept", "x=(rare)")
    np.testing.assert_array_equal(raw(design)["x=(rare)"], [0] * 30 + [1] * 10)
    assert caplog.messages[2:] == [  # said once, though it holds for mean and variance
        "t: x 'b', 'c' and 'd': fewer than 10 people each, 10 in all, put together as x=(rare)"
    ]
    caplog.clear()
    design = cohort(t, **rules(min_level_count=4)).mean_design
    assert design.names == ("intercept", "x=c", "x=(rare)")
    few = covariates(read, {"x": ["a"] * 18 + ["b"] * 18 + ["c"] * 4})
    assert cohort(few, **rules(min_level_count=5)).mean_design.names == ("intercept", "x=b")
    assert caplog.messages[-1] == (
        "t: x 'c': fewer than 5 people each, 4 in all, put together as 'a'"
    )


def test_levels_are_those_of_the_people_analysed(read, caplog):
    """Levels nobody analysed has are no columns, nor is such a level the reference."""
    caplog.set_level(logging.INFO)
    t = covariates(read, {"centre": CENTRES})
    y = normal(40, 2)
    y[15:35, 1] = np.nan  # Bath
    builder = CohortBuilder(samples(), table(y), t, **rules())
    assert builder.build("x0").mean_design.names == ("intercept", "centre=Hull", "centre=York")
    caplog.clear()
    assert builder.build("x1").mean_design.names == ("intercept", "centre=Hull")
    assert caplog.messages[1:] == [
        "x1: nobody has centre 'Bath'",
        "x1: 0 people have centre 'Bath', so 'York' takes its place as the reference",
    ]


def test_a_single_level_is_left_out_or_refused(read):
    t = covariates(read, {"x": ["a"] * 38 + ["b"] * 2})
    arguments = samples(), table(normal(), names=["t"]), "t", t
    assert refused(*arguments, **rules(min_level_count=3), strict=True) == (
        "covariate 'x' has no two levels that 3 or more of the 40 people analysed have each"
    )
    assert cohort(t, **rules(min_level_count=3)).mean_design.names == ("intercept",)
    many = covariates(read, {"x": [f"p{k}" for k in range(40)]})
    assert "no two levels" in refused(*arguments[:3], many, **rules(min_level_count=30))
    assert "fewer people than parameters" in refused(*arguments[:3], many, **rules())


def test_the_tests_do_not_depend_on_the_reference(read):
    t = covariates(read, {"centre": CENTRES, "age": range(40)})
    spans = [
        np.linalg.qr(cohort(t, **rules(reference={"centre": level})).mean_design.matrix)[0]
        for level in ("York", "Bath", "Hull")
    ]
    for span in spans[1:]:
        np.testing.assert_allclose(span @ span.T, spans[0] @ spans[0].T, atol=1e-12)


def test_names_of_columns_and_levels_are_checked(read, tmp_path):
    t = covariates(read, {"centre": CENTRES, "age": range(40)})

    def line(**given):
        with pytest.raises(InputError) as error:
            read_options(samples(), (t, None), **given)
        return str(error.value).replace(f"{tmp_path}/", "")

    assert line(categorical=["center"]) == (
        "categorical: no covariate is called 'center'; did you mean 'centre'?"
    )
    assert line(reference=["center=York"]).endswith("did you mean 'centre'?")
    assert line(reference=["centre=york"]) == (
        "reference: column 'centre' of c.tsv has no level 'york'; did you mean 'York'?"
    )
    assert line(reference=["centre=Q"]).endswith("it has 'Bath', 'Hull' and 'York'")
    assert line(reference=["age=3"]) == (
        "reference: column 'age' of c.tsv holds numbers; --categorical age makes levels of them"
    )
    assert line(reference=["centre"]).startswith("reference must be column=level")
    assert line(reference=["centre=York", "centre=Bath"]).endswith("is given twice")
    assert read_options(samples(), (t, None), reference=["centre = York"]).rules.reference == {
        "centre": "York"
    }


def test_what_was_made_of_columns_is_told(read, caplog):
    caplog.set_level(logging.INFO)
    centre = ["Leeds", "leeds", "Hull", "York"] * 10
    cohort(covariates(read, {"centre": centre, "age": [-9, -9, -9, *range(40, 77)]}), **rules())
    told = [message.split("c.tsv: ")[-1] for message in caplog.messages[:3]]
    assert told == [
        "'centre' has 4 levels: 'Hull', 'Leeds', 'York' and 'leeds'",
        "'centre' has levels that differ in capitals or blanks only: 'Leeds' and 'leeds'",
        "'age' is -9 in 3 people, apart from the others; if that means missing, "
        "--missing-value=-9 says so",
    ]


def test_a_code_among_phenotypes_is_told(caplog):
    y = normal(40, 2)
    y[:3, 1] = -9
    builder = CohortBuilder(samples(), table(y), **rules())
    for name in ("x0", "x1"):
        builder.build(name)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.split(": ")[1] for line in told] == [
        "'x1' is -9 in 3 people, apart from the others; if that means missing, "
        "--missing-value=-9 says so"
    ]


MISTAKES = {
    "dot first": (
        "IID x\n1 .\n2 3\n",
        "line 2, column 'x': '.' is not a number, and usually means missing: --missing-value=. "
        "says so",
    ),
    "words": (
        "IID\tx\n1\tLeeds\n2\tN/A\n3\tNone\n4\t<NA>\n",
        "line 3, column 'x': 'N/A' (and 2 more cells) usually means missing: "
        "--missing-value='N/A,None,<NA>' says so; --categorical x takes the column's cells for "
        "levels",
    ),
    "comma": (
        "IID\tx\n1\t45,1\n2\t46,2\n",
        "line 2, column 'x': '45,1' (and 1 more cells) is a number but for its comma: decimals "
        "need a point, thousands nothing; --categorical x takes the column's cells for levels",
    ),
    "unit": (
        "IID x\n1 45y\n2 46\n",
        "line 2, column 'x': '45y' is a number but for 'y': write numbers alone; --categorical x "
        "takes the column's cells for levels",
    ),
    "only missing words": (
        "IID x\n1 #N/A\n2 #N/A\n",
        "line 2, column 'x': '#N/A' (and 1 more cells) is not a number, and usually means "
        "missing: --missing-value='#N/A' says so",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_numbers_in_disguise_and_words_for_missing_make_no_levels(read, tmp_path, mistake):
    text, line = MISTAKES[mistake]
    with pytest.raises(InputError) as error:
        read(text)
    assert str(error.value) == f"{tmp_path / 'c.tsv'}, {line}"
    assert "x" in read(text, categorical=("x",)).levels  # where that is meant


def test_stages_are_levels(read):
    assert read("IID x\n1 1A\n2 1B\n3 2A\n").levels == {"x": ("1A", "1B", "2A")}


# --- products -----------------------------------------------------------------------------------


def test_what_is_constant_leaves_its_products(read):
    sex = ["f"] * 40
    t = covariates(read, {"age": range(40), "sex": sex, "zero": [0] * 40})
    given = rules(mean_terms=("sex:age", "zero:age", "age^2"))
    assert cohort(t, **given).mean_design.names == ("intercept", "age", "age:age")


def test_products_that_are_no_numbers_are_refused(read):
    t = covariates(read, {"x": [f"{k}e200" for k in range(40)]})
    arguments = samples(), table(normal(), names=["t"]), "t", t
    assert refused(*arguments, **rules(mean_terms=("x^2",))) == (
        "term 'x:x': products are too large for numbers"
    )


def test_products_of_numbers_and_levels(read):
    age, sex = np.arange(40) + 30.0, np.arange(40) % 2
    t = covariates(read, {"age": age, "sex": sex, "centre": CENTRES})
    found = cohort(
        t,
        t,
        **rules(mean_terms=("sex*age", "age^2", "centre:sex:age"), variance_terms=("age:sex",)),
    )
    columns = raw(found.mean_design)
    assert list(columns)[5:] == [
        "sex:age",
        "age:age",
        "centre=Hull:sex:age",
        "centre=York:sex:age",
    ]
    np.testing.assert_allclose(columns["sex:age"], sex * age)
    np.testing.assert_allclose(columns["age:age"], age**2)
    hull = np.array(CENTRES) == "Hull"
    np.testing.assert_allclose(columns["centre=Hull:sex:age"], hull * sex * age, atol=1e-9)
    assert found.variance_design.names[5:] == ("age:sex",)


def test_rare_combinations_of_levels_are_left_out(read, caplog):
    caplog.set_level(logging.INFO)
    smoker = ["no", "yes"] * 17 + ["no"] * 6  # one in Hull's five would be too few
    t = covariates(read, {"centre": CENTRES, "smoker": smoker})
    design = cohort(t, **rules(min_level_count=3, mean_terms=("centre:smoker",))).mean_design
    assert design.names[4:] == ("centre=York:smoker=yes",)
    assert caplog.messages[3] == (
        "t: 'centre=Hull:smoker=yes': fewer than 3 people each, left out of the model"
    )


@pytest.mark.parametrize(
    ("terms", "line"),
    [
        (["sex:aeg"], "term 'sex:aeg': no covariate 'aeg'; did you mean 'age'?"),
        (["sex:qqq"], "term 'sex:qqq': no covariate 'qqq'; there are 'sex' and 'age'"),
        (["age"], "term 'age' is no product: write sex:age or age^2"),
        (["sex:age", "age*sex"], "term 'age*sex' is given twice"),
        (["sex:"], "term 'sex:': no covariate ''"),
    ],
)
def test_terms_that_are_refused(terms, line):
    with pytest.raises(InputError) as error:
        parse_terms(terms, ("sex", "age"))
    assert str(error.value).startswith(line)


def test_terms_need_numbers_or_two_columns(read):
    t = covariates(read, {"centre": CENTRES})
    assert refused(
        samples(), table(normal(), names=["t"]), "t", t, **rules(mean_terms=("centre^2",))
    ) == ("term 'centre:centre': 'centre' holds levels, not numbers")
    assert "there is no table" in refused(
        samples(), table(normal(), names=["t"]), "t", t, **rules(variance_terms=("a:b",))
    )


def test_a_collinear_product_is_named(read):
    t = covariates(read, {"sex": np.arange(40) % 2, "age": range(40)})
    assert refused(
        samples(), table(normal(), names=["t"]), "t", t, **rules(mean_terms=("sex^2",))
    ).endswith("'sex:sex' is a combination of 'sex'")


def expanded_plainly(levels, least):
    """Levels that stay, what is put together, and the reference, person by person."""
    there = sorted(set(levels))
    count = {level: levels.count(level) for level in there}
    reference = min(there, key=lambda level: (-count[level], level))
    rare = [level for level in there if count[level] < least and level != reference]
    pooled = sum(count[level] for level in rare)
    columns = {
        f"x={level}": [float(one == level) for one in levels]
        for level in there
        if level != reference and level not in rare
    }
    if rare and pooled >= least:
        columns["x=(rare)"] = [float(one in rare) for one in levels]
    return columns if count[reference] >= least else {}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abcdefg"), min_size=12, max_size=40), st.integers(1, 8))
def test_levels_are_expanded_as_they_would_be_person_by_person(levels, least):
    n = len(levels)
    names = tuple(sorted(set(levels)))
    codes = np.array([[float(names.index(level))] for level in levels])
    t = replace(table(codes, names=["x"]), levels={"x": names})
    covariates = Covariates(samples(n), t, min_level_count=least)
    expected = expanded_plainly(levels, least)
    if not expected:
        with pytest.raises(InputError, match="no two levels"):
            covariates.columns(np.arange(n), constant_too=True)
        if max(levels.count(name) for name in names) >= least:
            assert covariates.columns(np.arange(n))[1] == ()  # one level only is left out
        return
    values, found, _ = covariates.columns(np.arange(n))
    assert found == tuple(expected)
    np.testing.assert_array_equal(values, np.array(list(expected.values())).T)
