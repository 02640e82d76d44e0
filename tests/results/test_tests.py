"""Names of tests, the errors for those that are not there, and stores of the earlier version."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import result_stores as stores

from hlmm_scan.analysis.rows import chosen_tests
from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.models.inference import chi2_of, joint_chi2, neg_log10_p, wald_neg_log10_p
from hlmm_scan.report.trait import read_trait
from hlmm_scan.results.frame import to_frame
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import TESTS, available_tests, parse_tests
from hlmm_scan.scan.state import verify
from hlmm_scan.schema import SCORE_TESTS, WALD_FORMAT, Status, result_variables
from hlmm_scan.storage.places import MARK

STORED = [v.name for v in result_variables(random_effects=False)]
EVERYTHING = [
    v.name
    for v in result_variables(
        random_effects=True, sandwich=True, likelihood_ratio=True, interaction=True
    )
]


def names(asked, variables=STORED, **options):
    return [t.name for t in parse_tests(asked, variables, "results.zarr", **options)]


def test_a_name_is_a_question_and_a_form():
    assert names([]) == ["add", "var", "av"]
    assert names([], with_effect=True) == ["add", "var"]
    assert names(["wald"]) == ["add_wald", "var_wald", "av_wald"]
    assert names(["var_wald_robust", "add", "wald_robust"]) == [
        *("var_wald_robust", "add", "add_wald_robust", "av_wald_robust")
    ]
    assert names(["lrt"], EVERYTHING) == ["add_lrt", "var_lrt", "av_lrt"]
    assert names(["interaction_wald_sandwich"], EVERYTHING) == ["interaction_wald_sandwich"]


def test_every_test_has_a_name_and_a_column_of_its_own():
    for what in ("name", "column"):
        found = [getattr(test, what) for test in TESTS]
        assert len(set(found)) == len(found)
    there = available_tests(STORED)
    for test in there:
        assert set(test.needs) <= set(test.variables) <= set(STORED)
    assert {t.form for t in there} == {"", "wald", "wald_robust"}
    made = [t.column for t in TESTS if not t.stored]
    assert not set(made) & set(EVERYTHING)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("var_robust", "unknown test 'var_robust'; there are add, var, av, add_wald, "),
        ("wald_robst", "did you mean 'wald_robust'?"),
        ("var_wald_sandwich", "no test 'var_wald_sandwich' in it (scan --sandwich makes it)"),
        ("lrt", "no test 'lrt' in it (scan --likelihood-ratio makes it)"),
        ("dispersion", "no test 'dispersion' in it (hlmm-scan dispersion makes it)"),
        ("interaction_wald", "(scan --interaction makes it)"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(name, words):
    with pytest.raises(InputError) as error:
        names([name])
    assert words in str(error.value)
    assert "wald, wald_robust for add, var and av" in str(error.value)


def test_every_command_says_the_same_of_a_test_that_is_not_there(tmp_path, capsys):
    store = stores.make_store(tmp_path / "results.zarr")
    errors = set()
    for command in ("hits", "report", "export", "calibration"):
        output = [] if command == "calibration" else ["-o", str(tmp_path / "out")]
        assert main([command, str(store.path), *output, "--test", "robust"]) == 2
        errors.add(capsys.readouterr().err.splitlines()[-1])
    (error,) = errors
    assert error.startswith(f"hlmm-scan: {store.path}: unknown test 'robust'; there are add, var")
    assert not (tmp_path / "out").exists()


def test_wald_tests_are_those_of_estimates_and_covariance():
    rng = np.random.default_rng(3)
    columns = {name: rng.uniform(0.1, 1, 20) for name in EVERYTHING}
    columns["add_se"][3] = np.nan
    for covariance in ("", "_robust", "_sandwich"):
        add, var, av = (
            next(t for t in TESTS if t.name == f"{question}_wald{covariance}")
            for question in ("add", "var", "av")
        )
        se, var_se = columns[f"add_se{covariance}"], columns[f"var_se{covariance}"]
        both = 0.1 * se * var_se
        columns[f"add_var_cov{covariance}"] = both
        expected = wald_neg_log10_p(columns["add"], se)
        np.testing.assert_array_equal(add.neg_log10_p(columns), expected)
        np.testing.assert_allclose(add.chi2(columns), (columns["add"] / se) ** 2, rtol=1e-9)
        expected = wald_neg_log10_p(columns["var"], var_se)
        np.testing.assert_array_equal(var.neg_log10_p(columns), expected)
        chi2 = joint_chi2(columns["add"], columns["var"], se**2, var_se**2, both)
        np.testing.assert_array_equal(av.neg_log10_p(columns), neg_log10_p(chi2, 2))
        np.testing.assert_allclose(av.chi2(columns), chi2_of(neg_log10_p(chi2, 2), 2))


@pytest.fixture
def earlier(tmp_path) -> ResultStore:
    """A store of the earlier version: its p-values are Wald tests."""
    store = stores.make_store(tmp_path / "earlier.zarr")
    for start, stop in itertools.pairwise((0, 3, 6, 7)):
        store.write_partition(0, start, stop, stores.chunk_values(stop - start, start))
    store.complete({MARK: {"kind": "results", "format": WALD_FORMAT}})
    return ResultStore.open(store.path)


def test_an_earlier_store_is_read_and_its_wald_tests_are_called_so(earlier, tmp_path):
    assert not set(SCORE_TESTS) & {v.name for v in earlier.readable}
    forms = [f"{question}_wald_robust" for question in ("add", "var", "av")]
    assert [t.name for t in chosen_tests(earlier)] == forms
    with pytest.raises(InputError, match="no test 'add' in it"):
        chosen_tests(earlier, ["add"])
    trait = read_trait(earlier.dataset())
    assert [t.name for t in trait.shown.values()] == forms
    output = tmp_path / "out.tsv"
    assert main(["export", str(earlier.path), "-o", str(output), "--test", "wald"]) == 0
    header = output.read_text().splitlines()[0].split("\t")
    assert header[-3:] == [f"{question}_neg_log10_p_wald" for question in ("add", "var", "av")]
    assert not set(SCORE_TESTS) & set(header)


def test_an_earlier_store_is_not_gone_on_with(earlier):
    for go_on in (earlier.require_current, lambda: verify(earlier)):
        with pytest.raises(InputError, match="format 1, which this version only reads"):
            go_on()


def test_a_frame_has_what_is_stored_and_the_tests_asked_for(tmp_path):
    store = stores.make_store(tmp_path / "results.zarr", ("height", "weight"))
    for start, stop in itertools.pairwise((0, 3, 6, 7)):
        values = stores.chunk_values(stop - start, start)
        if not start:
            values["status"][:] = Status.NOT_CONVERGED
            values["var_neg_log10_p"][:] = 50
        values["var_neg_log10_p"][-1] = 9 + start
        store.write_partition(0, start, stop, values)
    frame = to_frame(store)
    assert list(frame["variant_id"]) == [f"rs{k}" for k in range(7)]
    assert list(frame["status"]) == ["not_converged"] * 3 + ["ok"] * 4
    np.testing.assert_array_equal(frame["add"], store.dataset()["add"].values[0])
    more = to_frame(store, ["height"], tests=["wald", "var"])
    assert list(more.columns) == [
        *frame.columns,
        *(f"{question}_neg_log10_p_wald" for question in ("add", "var", "av")),
    ]
    wald = wald_neg_log10_p(frame["add"], frame["add_se"])
    np.testing.assert_array_equal(more["add_neg_log10_p_wald"], wald)
    assert list(to_frame(store, below=5e-8)["variant_id"]) == ["rs5", "rs6"]
    assert list(to_frame(store, below=5e-8, tests=["add"])["variant_id"]) == []
    assert len(to_frame(store, ["weight"])) == 0
    with pytest.raises(InputError, match=r"unknown phenotype 'heigt' in .*; did you mean 'height'"):
        to_frame(store, ["heigt"])
    with pytest.raises(InputError, match="below must be a p-value"):
        to_frame(store, below=0)
