"""Random effects in a scan: whose chromosome is left out, and who has none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import plink_by_hand as plink
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.models import HLMM
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.inputs import read_inputs
from hlmm_scan.scan.planning import make_plan


@pytest.fixture(scope="module")
def whole(bench) -> plink.Fileset:
    """The three chromosomes as one fileset."""
    parts = [plink.read(bed.with_suffix("")) for bed in bench.cohort.beds]
    return plink.Fileset(
        np.concatenate([p.copies for p in parts]), pd.concat([p.bim for p in parts]), parts[0].fam
    )


@pytest.fixture(scope="module")
def phenotype(bench) -> pd.Series:
    return pd.read_csv(bench.phenotypes, sep="\t").set_index("IID")["trait1"]


def check_by_hand(store: Path, whole, phenotype, random: plink.Fileset, left_out) -> None:
    """Compare a few variants of each chromosome with the plain model on the G they should have."""
    values = ResultStore.open(store).read_partition(0, 0, 72)
    y = phenotype.reindex(whole.fam[1]).to_numpy()
    position = pd.Index(random.fam[1]).get_indexer_for(whole.fam[1])
    rows = np.flatnonzero(np.isfinite(y) & (position >= 0))
    columns = plink.standardised(random.copies[:, position[rows]])
    compared = 0
    for variant in range(1, 72, 8):
        if values["status"][variant] >= 5:
            continue
        kept = np.array(random.bim[0] != left_out(whole.bim[0].iloc[variant]))
        G = columns[:, kept] / np.sqrt(kept.sum())
        genotype = whole.copies[variant, rows]
        called = np.isfinite(genotype)
        ones = np.ones(called.sum())
        design = np.column_stack([ones, genotype[called]])
        fit = HLMM(y[rows][called], design, design, G[called]).fit()
        assert values["n"][variant] == called.sum()
        assert values["status"][variant] == fit.status
        assert abs(values["add"][variant] - fit.alpha[1]) < 1e-5 * fit.alpha_se[1]
        assert abs(values["var"][variant] - fit.beta[1]) < 1e-5 * fit.beta_se[1]
        assert values["log_likelihood"][variant] == pytest.approx(fit.log_likelihood, abs=1e-6)
        compared += 1
    assert compared >= 6


def listed(bench, whole) -> plink.Fileset:
    ids = bench.cohort.random_effects.read_text().split()
    return whole.part(np.sort(pd.Index(whole.bim[1]).get_indexer_for(ids)))


def test_the_chromosome_of_the_tested_variant_is_left_out(bench, whole, phenotype):
    store = bench.reference("hlmm")
    check_by_hand(store, whole, phenotype, listed(bench, whole), left_out=lambda contig: contig)
    assert ResultStore.open(store).attributes["parameters"]["loco"] is True
    null = ResultStore.open(store).null_group("trait1")
    assert [str(c) for c in null["left_out_contig"][:]] == ["", "1", "2", "3"]


def test_without_loco_all_stay_in_and_a_warning_says_so(bench, whole, phenotype, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hlmm_scan"):
        store = bench.scan(tmp_path / "r", "hlmm", loco=False, phenotype=("trait1",))
    assert "18 variants of the scan are themselves random effects" in caplog.text
    check_by_hand(store, whole, phenotype, listed(bench, whole), left_out=lambda contig: None)


def test_chr1_and_1_are_one_chromosome_and_people_without_random_effects_are_dropped(
    bench, whole, phenotype, tmp_path, caplog
):
    random = listed(bench, whole)
    people = np.random.default_rng(1).permutation(len(whole.fam))[:120]
    random = random.part(people=people)
    named = plink.Fileset(random.copies, random.bim.copy(), random.fam)
    named.bim[0] = "chr" + named.bim[0]
    named.write(tmp_path / "random")
    convert([tmp_path / "random.bed"], tmp_path / "random.zarr")
    with caplog.at_level(logging.INFO, "hlmm_scan"):
        store = bench.scan(
            tmp_path / "r", "hlmm", random_effects=tmp_path / "random.zarr", phenotype=("trait1",)
        )
    check_by_hand(store, whole, phenotype, random, left_out=lambda contig: contig)
    attributes = ResultStore.open(store).null_group("trait1").attrs
    dropped = attributes["dropped"]
    phenotyped = phenotype.reindex(whole.fam[1]).notna().to_numpy()
    absent = ~np.isin(np.arange(150), people)
    assert dropped["phenotype_missing"] == (~phenotyped).sum()
    assert dropped["not_in_random_effects"] == (phenotyped & absent).sum() > 0
    assert attributes["people"] + sum(dropped.values()) == 150
    assert f"{dropped['not_in_random_effects']} not_in_random_effects" in caplog.text


def test_random_effects_on_one_chromosome_are_not_left_out_unless_asked_which_is_refused(
    bench, tmp_path
):
    ids = bench.cohort.random_effects.read_text().split()
    one = tmp_path / "one.txt"
    one.write_text("\n".join(i for i in ids if i.startswith("rs2_")))
    config = bench.config(tmp_path / "r", "hlmm", random_effects=one)
    assert read_inputs(config).loco is False
    with pytest.raises(InputError, match="lie on one chromosome"):
        run.prepare(bench.config(tmp_path / "r", "hlmm", random_effects=one, loco=True))


def test_standard_errors_default_to_those_of_the_mode(bench, tmp_path):
    def observed(kind, **changes):
        return read_inputs(bench.config(tmp_path / "r", kind, **changes)).observed

    assert [observed(kind) for kind in ("hlm", "joint", "hlmm", "seed")] == [0, 0, 0, 1]
    assert observed("hlm", covariate_mode="seed") is False
    assert observed("seed", se="expected") is False
    assert observed("joint", se="observed") is True


def test_the_plan_counts_people_and_columns(bench, tmp_path):
    plan, _ = make_plan(read_inputs(bench.config(tmp_path / "r")))
    assert plan.people == tuple(
        int(c) for c in pd.read_csv(bench.phenotypes, sep="\t").iloc[:, 2:].notna().sum()
    )
    bigger, _ = make_plan(read_inputs(bench.config(tmp_path / "r", "hlmm")))
    assert bigger.task_seconds > plan.task_seconds
