"""The registry of stored variables keeps the names and codes that users were promised."""

from __future__ import annotations

import numpy as np
import pytest

from hlmm_scan.schema import (
    ALL_RESULTS,
    COORDINATES,
    DERIVED_RESULTS,
    GENOTYPES,
    RESULTS,
    SCORE_TESTS,
    Status,
    documentation_rows,
    find,
    result_variables,
)

STORED = (*COORDINATES, *ALL_RESULTS, *DERIVED_RESULTS)


def test_status_codes_are_the_published_ones():
    assert {s.label: int(s) for s in Status} == {
        "pending": 0,
        "ok": 1,
        "screened": 2,
        "refined": 3,
        "random_variance_at_zero": 4,
        "not_converged": 5,
        "not_unique": 6,
        "unbounded": 7,
        "monomorphic": 10,
        "low_maf": 11,
        "low_mac": 12,
        "high_missing": 13,
        "low_info": 14,
        "hwe": 15,
        "strand_unknown": 16,
        "frequencies_differ": 17,
        "no_cohort": 18,
        "task_failed": 20,
    }


def test_result_names_are_the_published_ones():
    hlm = [v.name for v in result_variables(random_effects=False)]
    hlmm = [v.name for v in result_variables(random_effects=True)]
    assert set(hlm) == {
        *("n", "effect_allele_frequency", "log_likelihood", "status"),
        *("add", "add_se", "add_neg_log10_p", "var", "var_se", "var_neg_log10_p"),
        *("av_neg_log10_p", "add_var_cov", "test_flags"),
        *("add_se_robust", "var_se_robust", "add_var_cov_robust"),
    }
    asked = result_variables(random_effects=False, sandwich=True, likelihood_ratio=True)
    assert {v.name for v in asked} - set(hlm) == {
        *("add_se_sandwich", "var_se_sandwich", "add_var_cov_sandwich"),
        *("add_lrt_neg_log10_p", "var_lrt_neg_log10_p", "av_lrt_neg_log10_p"),
    }
    random = {"random_variance", "random_variance_se", "random_variance_fraction"}
    assert set(hlmm) - set(hlm) == random
    assert [v.name for v in COORDINATES] == [
        *("phenotype", "variant_id", "contig", "position", "effect_allele", "other_allele")
    ]


@pytest.mark.parametrize("variables", [STORED, GENOTYPES], ids=["results", "genotypes"])
def test_every_variable_is_named_once_and_described(variables):
    names = [v.name for v in variables]
    assert len(names) == len(set(names))
    for variable in variables:
        assert variable.description
        assert variable.dims
        assert variable.dtype == "str" or np.dtype(variable.dtype).name == variable.dtype
        assert variable.attributes()["description"] == variable.description
        assert ("units" in variable.attributes()) == bool(variable.unit)


@pytest.mark.parametrize("variable", result_variables(random_effects=True), ids=lambda v: v.name)
def test_a_chunk_never_written_reads_as_pending_without_estimates(variable):
    assert variable.dims == ("phenotype", "variant")
    fill = np.asarray(variable.fill_value).astype(variable.dtype)
    if variable.dtype.startswith("float"):
        assert np.isnan(fill)
    else:
        assert fill == 0
    if variable.name == "status":
        assert fill == Status.PENDING


def test_status_carries_its_meanings_in_the_order_of_its_values():
    attributes = find("status", RESULTS).attributes()
    meanings = attributes["flag_meanings"].split()
    labels = {Status(value).label for value in attributes["flag_values"]}
    assert [Status(v).label for v in attributes["flag_values"]] == meanings
    assert labels == {s.label for s in Status}
    assert max(attributes["flag_values"]) <= np.iinfo(find("status", RESULTS).dtype).max
    assert "flag_values" not in find("add", RESULTS).attributes()


def test_the_flags_of_tests_carry_their_masks():
    variable = find("test_flags", RESULTS)
    attributes = variable.attributes()
    assert attributes["flag_masks"] == [1, 2, 4, 8]
    meanings = "add_at_bound var_at_bound av_at_bound var_unknown"
    assert attributes["flag_meanings"] == meanings
    assert variable.dtype == "int8"
    assert variable.fill_value == 0


def test_no_stored_p_value_is_a_function_of_what_is_stored():
    names = {v.name for v in ALL_RESULTS}
    assert not {name for name in names if name.endswith(("p_robust", "p_sandwich", "chi2"))}
    assert set(SCORE_TESTS) <= names


def test_an_unknown_name_is_a_key_error():
    assert find("add", RESULTS).unit == "phenotype units"
    with pytest.raises(KeyError, match="adds"):
        find("adds", RESULTS)


def test_the_documentation_lists_every_stored_variable_once():
    rows = list(documentation_rows())
    assert [name for name, _, _ in rows] == [v.name for v in STORED]
    assert all(text for _, _, text in rows)
