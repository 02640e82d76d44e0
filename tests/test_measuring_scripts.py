"""What the measuring scripts compute, and that they fail where a figure is out."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize(("ones", "twos"), [(20, 0), (40, 7)])
def test_scores_of_drawn_classes_are_those_of_the_people_drawn(script, ones, twos):
    sampling = script("class_sampling")
    rng = np.random.default_rng(1)
    residuals = sampling.Residuals(rng.gamma(2, size=300), ones, twos)
    for _ in range(3):
        scores = residuals.draw(rng, 1)[0]
        copies = np.zeros(300)
        copies[residuals.order[:ones]] = 1
        copies[residuals.order[ones : ones + twos]] = 2
        g, s, q = copies - copies.mean(), residuals.s, residuals.q
        clean = s - (g @ s) / (g @ g) * g
        np.testing.assert_allclose(scores, [g @ s, g @ q, g @ clean**2], atol=1e-9)


def test_draws_that_are_not_tested_would_not_be_rejected(script):
    sampling = script("class_sampling")
    y = np.random.default_rng(2).gamma(2, size=500)
    residuals = sampling.Residuals(y, 30, 0)
    rng = np.random.default_rng(3)
    residuals.draw(rng, sampling._PILOT)
    p = residuals.tests(residuals.draw(rng, 12_000))
    found = sampling.rejections(
        sampling.Residuals(y, 30, 0), 12_000, 8_000, np.random.default_rng(3)
    )
    assert found.tested < 9_000
    assert found.smallest < 0
    assert found.draws.tolist() == [8_000, *[12_000] * 4]
    for level, draws, rejected in zip(sampling.LEVELS, found.draws, found.rejected.T, strict=True):
        np.testing.assert_array_equal(rejected, (p[:, :draws] >= -np.log10(level)).sum(axis=1))


@pytest.mark.parametrize(
    ("trait", "minor", "test", "rejected", "misses"),
    [
        ("normal", "50", "add", (1_000, 100, 10, 1, 0), 0),
        ("normal", "50", "var", (1_380, 135, 20, 2, 1), 0),
        ("normal", "50", "av", (1_450, 160, 20, 2, 1), 0),  # not beyond chance
        ("normal", "50", "av", (1_600, 100, 10, 1, 0), 1),
        ("t5", "20", "av", (1_000, 190, 40, 2, 0), 2),
        ("gamma(2)", "common", "add", (1_000, 100, 10, 1, 4), 1),
        ("gamma(2)", "50", "var", (600, 100, 10, 1, 0), 1),
        ("gamma(2)", "20", "var", (600, 100, 10, 1, 0), 0),  # too rare to be judged
        ("log-normal", "50", "var", (600, 100, 10, 1, 0), 0),
        ("log-normal", "50", "var", (300, 100, 10, 1, 0), 1),
        ("counts", "50", "add", (300, 100, 10, 1, 0), 0),  # a lattice
        ("0/1, 10%", "50", "var", (0, 0, 0, 0, 0), 0),  # no such test
    ],
)
def test_calibration_allows_for_its_own_noise(script, trait, minor, test, rejected, misses):
    calibrate = script("calibrate")
    line = calibrate.Line("HLM", trait, minor, test, (1_000_000,) * 5, rejected)
    assert len(list(line.misses())) == misses


def test_a_cell_that_does_not_hold_fails_unless_its_reason_is_known(
    script, monkeypatch, tmp_path, capsys
):
    calibrate = script("calibrate")
    tally = script("class_sampling").Tally()
    tally.draws += 100_000
    tally.rejected += 100
    tally.rejected[1] = 300
    monkeypatch.setattr(calibrate, "sampled_cell", lambda *_: tally)
    arguments = ["calibrate", "--trait", "t5", "--mac", "20", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert calibrate.main() == 1
    assert "t5, MAC 20, var: p < 0.001 3.00 × as often" in capsys.readouterr().err
    for test in ("add", "var", "av"):
        monkeypatch.setitem(
            calibrate.KNOWN, (calibrate.SAMPLED, "t5", "20", test), "outlying people"
        )
    assert calibrate.main() == 0
    text = (tmp_path / "calibration.md").read_text()
    assert "allowed 1.4 ×: outlying people" in text
    assert "MISS" not in text


def test_what_is_exchanged_keeps_its_sums_and_can_be_taken_back(script):
    splitting = script("splitting")
    rng = np.random.default_rng(5)
    variant = splitting.Variant(rng.gamma(2, size=50), np.repeat([1.0, 2.0, 0.0], [12, 3, 35]))
    walk = splitting.Walk.begin(variant, "add", 7, rng)
    before, places, kept = walk.who.copy(), np.empty((7, 20, 2), np.int32), walk.sums.copy()
    splitting.exchange(rng, walk.who, variant.x, variant.s, variant.own, 20, places, kept)
    assert (walk.who != before).any(axis=1).all()
    again = np.empty_like(kept)
    splitting.sums(walk.who, variant.x, variant.s, again)
    np.testing.assert_allclose(kept, again, atol=1e-12)
    refused = np.arange(7) % 2 == 0
    splitting.take_back(walk.who, refused, 20, places)
    np.testing.assert_array_equal((walk.who == before).all(axis=1), refused)


@pytest.mark.parametrize(
    ("test", "imputed"), [("add", False), ("var", False), ("av", False), ("av", True)]
)
def test_splitting_finds_what_plain_permutations_do(script, test, imputed):
    splitting = script("splitting")
    rng = np.random.default_rng(6)
    y, n = rng.gamma(2, size=200), 200
    if imputed:
        step = 2 / 255
        copies = np.round(rng.beta(0.3, 0.9, n) * 2 / step) * step
        variant = splitting.Variant(y, copies, step)
    else:
        variant = splitting.Variant(y, np.repeat([1.0, 2.0, 0.0], [60, 15, 125]))
    levels = (1e-1, 1e-2)
    found = splitting.rejected(variant, test, levels, 4_000, rng)
    plain = splitting.Walk.begin(variant, test, 10_000, rng)
    p = variant.tests(variant.scores(plain.sums), test)
    expected = [(p >= -np.log10(level)).mean() for level in levels]
    np.testing.assert_allclose(found, expected, rtol=0.3)
    # But for the few places where the test goes over from one form to another.
    assert np.quantile(np.abs(plain.p - p), 0.98) < 0.01


def test_rates_of_rare_rejections_allow_for_their_spread(script):
    rare = script("rare_rejections")
    cell = rare.Cell(3_000, "t5", "50")
    high = (1.0, 1.0, 1.0, 1.0, 2.5)
    held = rare.Rates(cell, "var", (high, (1.0, 1.0, 1.0, 1.0, 1.9)), 4_000)
    assert not list(held.misses())
    assert len(list(rare.Rates(cell, "var", (high, high), 4_000).misses())) == 1
    assert not list(rare.Rates(cell, "var", (high, high), 400).misses())  # few walked
    low = (0.5, 1.0, 1.0, 1.0, 1.0)
    assert len(list(rare.Rates(cell, "var", (low, low), 4_000).misses())) == 1
    assert not list(rare.Rates(replace(cell, minor="20"), "var", (low, low)).misses())


@pytest.mark.parametrize(
    ("p", "exceeding", "drawn", "agrees"),
    [
        (1e-4, 50, 500_000, True),
        (1.9e-4, 50, 500_000, True),
        (2.1e-4, 50, 500_000, False),
        (4e-5, 50, 500_000, False),
        (3e-6, 0, 1_000_000, True),  # inside the interval
        (1e-5, 0, 1_000_000, False),
        (1e-6, 3, 1_000_000, True),
    ],
)
def test_a_p_value_beside_permutations(script, p, exceeding, drawn, agrees):
    permutations = script("permutations")
    case = permutations.Case("t5", 433, "20", "var", -np.log10(p), exceeding, 0, drawn)
    assert case.agrees == agrees
    # Most of those that are as extreme are ties.
    assert replace(case, tied=exceeding * 4 // 5).agrees_in_the_middle == (agrees or p == 4e-5)


def test_power_is_compared_at_one_error_rate(script):
    power = script("planted_power")
    rng = np.random.default_rng(4)
    calls = power.draw_calls(4_000, 1, 0.3, rng)
    y = power.plant(calls, rng.standard_normal(4_000), (50.0, 0.0), 0.3)
    assert np.polyfit(calls[0], y, 1)[0] == pytest.approx(50 / np.sqrt(4_000 * 0.42), rel=0.1)
    cell = power.Cell(3_000, 0.3, "normal", "additive", 500, 10**5, dict.fromkeys(power.FORMS, 0.5))
    assert not power.misses([cell])
    better = replace(cell, power={**cell.power, "Wald": 0.55})
    assert better.lost == pytest.approx(0.05)
    assert len(power.misses([better, better, cell])) == 1


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
        copies = case.genotypes.copies()[0]
        np.testing.assert_array_equal(copies, again.genotypes.copies()[0])
        np.testing.assert_array_equal(case.null.y, again.null.y)
        called = copies[~np.isnan(copies)]
        # Of dosages the alleles called count, which are on average as many.
        least = 0.5 * cases.LEAST_MAC if plan.kind.dosages else cases.LEAST_MAC
        assert min(called.sum(), (2 - called).sum()) >= least


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


def test_a_background_is_judged_beside_the_exact_model(script):
    background = script("background")
    line = background.Line("unrelated", 0.3, 10, 0.1, 20.0, 21.0, 22.0, 1.2, 1.03, 1.01)
    found = background.summary([line, replace(line, power_ours=22.0)], "unrelated")
    assert found["power_ours_over_exact"] == pytest.approx(21.5 / 22)
    assert not background.required({"unrelated": found}, background.FULL)
    worse = {**found, "power_ours_over_exact": 0.8, "lambda_ours": 1.2}
    misses = background.required({"unrelated": worse}, background.FULL)
    assert [miss.split(":")[1].split()[0] for miss in misses] == ["χ²", "λ"]


def test_the_exact_mixed_model_is_least_squares_where_nobody_is_alike(script):
    background = script("background")
    rng = np.random.default_rng(1)
    copies = background.genotypes("unrelated", background.Size(80, 200, 2, (), (), 0.1), rng)
    g, y = background.standardised(copies), rng.normal(size=(1, 80))
    contig = np.repeat(["1", "2"], [1, 199])
    g[1:] *= 1e-6  # no relationship
    r = np.corrcoef(g[0], y[0])[0, 1]
    assert background.exact(g, contig, y)[0, 0] == pytest.approx(78 * r**2 / (1 - r**2), rel=1e-6)


def test_relatedness_without_its_data_is_one_clear_line(script, monkeypatch, tmp_path, capsys):
    relatedness = script("relatedness")
    monkeypatch.setattr(sys, "argv", ["relatedness", "--mouse", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        relatedness.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(tmp_path) in error
