"""What the measuring scripts compute, and that they fail where a figure is out."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Import a script by name, as Python does when it runs one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_families_share_half_their_alleles(script):
    simulated = script("simulated")
    rng = np.random.default_rng(0)
    copies = simulated.draw_genotypes(400, 500, rng, maf=(0.3, 0.5), family=2)
    r = np.corrcoef(simulated.standardised_columns(copies))
    same, other = r[np.arange(0, 400, 2), np.arange(1, 400, 2)], r[0, 2:]
    # Each allele is the family's with probability ½, so two of one place agree in a quarter.
    assert same.mean() == pytest.approx(0.25, abs=0.02)
    assert other.mean() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("df", [1, 2])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_behaviour_of_statistics_of_known_inflation(script, df, factor):
    calibrate = script("calibrate")
    statistics = factor * chi2.isf((np.arange(100_001) + 0.5) / 100_001, df)
    found = calibrate.behaviour(-chi2.logsf(statistics, df) / np.log(10), df)
    rates = [chi2.sf(chi2.isf(level, df) / factor, df) / level for level in calibrate.LEVELS]
    np.testing.assert_allclose(found[:4], [factor, *rates], rtol=0.02)
    assert found[4] == 100_001


@pytest.mark.parametrize(
    ("trait", "covariance", "test", "inflation", "rejection", "misses"),
    [
        ("normal", "model", "add", 1.02, 1.0, 0),
        ("normal", "model", "add", 1.045, 1.0, 0),  # out by less than two standard errors
        ("normal", "model", "add", 1.06, 1.0, 1),
        ("normal", "likelihood ratio", "var", 0.9, 1.0, 1),
        ("t5", "studentised", "var", 1.08, 1.0, 0),
        ("t5", "studentised", "var", 0.8, 1.0, 1),
        ("t5", "studentised", "av", 1.0, 1.9, 3),
        ("t5", "studentised", "av", 1.0, 0.4, 3),
        ("t5", "studentised", "av", 1.0, 1.6, 0),
        ("t5", "sandwich", "var", 3.0, 9.0, 0),  # shown, not judged
        ("t5", "model", "var", 3.0, 9.0, 0),
        ("log-normal, σ ½", "studentised", "var", 0.8, 1.0, 1),
        ("log-normal, σ 1", "studentised", "var", 0.8, 3.0, 0),  # likewise
        ("t5", "model", "var", 1.02, 1.0, 1),  # then nothing would need mending
    ],
)
def test_calibration_allows_for_its_own_noise(
    script, trait, covariance, test, inflation, rejection, misses
):
    calibrate = script("calibrate")
    line = calibrate.Calibration(
        "HLM", trait, calibrate.COMMON, covariance, test, 9, inflation, 0.01,
        (rejection,) * 3, (0.1,) * 3,
    )  # fmt: skip
    assert len(list(line.misses(calibrate.Size()))) == misses


def test_rejection_of_nothing_is_not_certain(script):
    calibrate = script("calibrate")
    rows = [[1.0, 1.0, 0.0, 0.0, 300]] * 5
    line = calibrate.summarise(("HLM", "t5", calibrate.COMMON, "studentised", "av"), rows)
    assert line.rejection_error[2] == pytest.approx(1 / np.sqrt(1e-4 * 1500), rel=1e-3)
    assert not list(line.misses(calibrate.Size()))


def test_cases_come_from_their_seed_and_are_what_they_claim(script):
    cases = script("accuracy_cases")
    plans = [cases.plan_case(seed) for seed in range(2_000)]
    for kind in cases.KINDS:
        own = [p for p in plans if p.kind is kind]
        assert len(own) / len(plans) == pytest.approx(kind.share, abs=0.03)
        assert all(kind.people[0] <= p.n <= kind.people[1] for p in own)
        assert all((p.l_random > 0) == bool(kind.random) for p in own)
    for plan in [p for p in plans if p.n < 600][:12]:
        case, again = cases.draw_case(plan), cases.draw_case(plan)
        np.testing.assert_array_equal(case.calls, again.calls)
        np.testing.assert_array_equal(case.null.y, again.null.y)
        called = case.calls[case.calls >= 0]
        assert min(called.sum(), (2 - called).sum()) >= cases.LEAST_MAC


def test_accuracy_notices_a_kernel_that_is_off(script, monkeypatch, tmp_path, capsys):
    accuracy = script("accuracy")
    first = next(p for p in accuracy.quick_plans() if p.kind.name == "HLM, class sums")
    monkeypatch.setattr(accuracy, "quick_plans", lambda: iter([first]))
    arguments = ["accuracy", "--quick", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert accuracy.main() == 0
    fit = accuracy.fit_by_kernel

    def off(case):
        columns = fit(case)
        return {**columns, "var": columns["var"] + 1e-4 * columns["var_se"]}

    monkeypatch.setattr(accuracy, "fit_by_kernel", off)
    assert accuracy.main() == 1
    assert f"MISS 1.0e-04 standard errors apart, allowed 1e-05: --case {first.seed}" in (
        capsys.readouterr().out
    )
    monkeypatch.setattr(accuracy, "fit_by_kernel", lambda case: {**fit(case), "status": 5})
    assert accuracy.main() == 1
    assert "MISS kernel not_converged, model ok" in (tmp_path / "accuracy.md").read_text()


def test_relatedness_is_judged_where_there_is_something_to_judge(script):
    relatedness = script("relatedness")
    line = relatedness.Inflation("all", 500, 15.0, 1.05, 1.0)
    assert not relatedness.required([line])
    assert len(relatedness.required([replace(line, ours=1.2)])) == 1
    assert not relatedness.required([replace(line, gemma=float("nan"))])  # not installed
    first = replace(line, chromosome="1", without=2.0)
    assert len(relatedness.required([first, line])) == 1


def test_relatedness_without_its_data_is_one_clear_line(script, monkeypatch, tmp_path, capsys):
    relatedness = script("relatedness")
    monkeypatch.setattr(sys, "argv", ["relatedness", "--mouse", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        relatedness.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(tmp_path) in error
