"""Simulated cohorts: reproducible, readable, and with the effects that the truth says."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.packing import unpack
from hlmm_scan.simulate import SimulatedCohort, draws, simulate_cohort
from hlmm_scan.simulate import cohort as cohort_files

SMALL = {"n_samples": 50, "variants_per_chromosome": 40, "n_random_effects": 30}


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


def tables(cohort: SimulatedCohort) -> tuple[GenotypeDataset, pd.DataFrame, pd.DataFrame]:
    dataset = convert(cohort.beds, cohort.directory / "geno.zarr")
    truth = pd.read_csv(cohort.truth, sep="\t")
    people = pd.read_csv(cohort.phenotypes, sep="\t").merge(
        pd.read_csv(cohort.covariates, sep="\t"), on=["FID", "IID"], validate="1:1"
    )
    return dataset, truth, people


def calls(dataset: GenotypeDataset) -> np.ndarray:
    copies = unpack(dataset.read_packed(0, dataset.n_variants), dataset.n_samples)
    return np.where(copies < 0, np.nan, copies)


@pytest.mark.parametrize("model", ["hlmm", "gamma"])
def test_same_seed_same_bytes(tmp_path, monkeypatch, model):
    first = simulate_cohort(tmp_path / "a", model=model, **SMALL)
    monkeypatch.setattr(draws, "_GENOTYPES_AT_ONCE", 350)  # blocks of 7 variants
    simulate_cohort(tmp_path / "b", model=model, **SMALL)
    simulate_cohort(tmp_path / "c", model=model, seed=2, **SMALL)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    a, c = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert all(a[name] != c[name] for name in a if not name.endswith((".fam", ".txt")))
    named = [*first.beds, first.phenotypes, first.covariates, first.truth]
    named += [bed.with_suffix(ext) for bed in first.beds for ext in (".bim", ".fam")]
    named += [first.random_effects] if first.random_effects else []
    assert sorted(p.name for p in named) == sorted(a)


def test_single_fileset_holds_the_same(tmp_path):
    several = simulate_cohort(tmp_path / "a", **SMALL)
    single = simulate_cohort(tmp_path / "b", single_fileset=True, **SMALL)
    assert [p.name for p in several.beds] == ["chr1.bed", "chr2.bed", "chr3.bed"]
    assert [p.name for p in single.beds] == ["cohort.bed"]
    prints = [convert(c.beds, c.directory / "geno.zarr").fingerprint for c in (several, single)]
    assert prints[0] == prints[1]
    for name in ("phenotypes.tsv", "covariates.tsv", "truth.tsv", "random_effects.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("chromosomes", [1, 2, 4, 5])
def test_any_number_of_chromosomes_has_room_for_the_planted_loci(tmp_path, chromosomes):
    cohort = simulate_cohort(tmp_path / "sim", chromosomes=chromosomes, **SMALL)
    _, truth, _ = tables(cohort)
    assert truth["variant_id"].nunique() == len(truth) == 6
    assert truth["contig"].nunique() >= min(chromosomes, 3)


def test_layout_of_a_cohort(tmp_path):
    cohort = simulate_cohort(tmp_path / "sim")
    dataset, truth, people = tables(cohort)
    assert (dataset.n_variants, dataset.n_samples) == (3000, 2000)
    assert dataset.contigs == ("1", "2", "3")
    assert dataset.samples.individual_id.tolist() == people["IID"].tolist()
    assert dataset.samples.sex.tolist() == people["sex"].tolist()
    assert people["trait1"].isna().sum() == 10
    assert people["age"].between(40, 70).all()
    g = calls(dataset)
    assert np.isnan(g).mean() == pytest.approx(0.01, abs=0.001)
    frequency = np.nanmean(g, axis=1) / 2
    assert np.minimum(frequency, 1 - frequency).min() > 0.03
    assert 0.2 < (frequency > 0.5).mean() < 0.3
    correlation = np.corrcoef(np.nan_to_num(g[:1000], nan=1.0))
    assert np.abs(np.diag(correlation, 1)).mean() < 0.03

    table = dataset.variants(0, 3000)
    assert (table.effect_allele != table.other_allele).all()
    # The planted loci are two of each kind, each locus as the .bim has it, all chromosomes used.
    kinds = list(zip(truth.additive_effect != 0, truth.log_variance_effect != 0, strict=True))
    assert sorted(kinds) == [(False, True)] * 2 + [(True, False)] * 2 + [(True, True)] * 2
    rows = dataset.find_variants(truth.variant_id)
    assert truth.effect_allele.tolist() == table.effect_allele[rows].tolist()
    assert truth.position.tolist() == table.position[rows].tolist()
    assert truth.contig.astype(str).tolist() == table.contig[rows].tolist()
    assert set(truth.contig) == {1, 2, 3}
    assert cohort.random_effects is not None
    random = dataset.find_variants(cohort.random_effects.read_text().split())
    assert len(set(random)) == 300
    assert not set(random) & set(rows)
    assert np.bincount(dataset.variant_contig()[random]).tolist() == [100, 100, 100]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_loci_can_be_found(tmp_path, seed):
    dataset, truth, people = tables(simulate_cohort(tmp_path / "sim", seed=seed))
    kept = people["trait1"].notna().to_numpy()
    y = people["trait1"].to_numpy()[kept]
    design = np.column_stack([np.ones(kept.sum()), people[["age", "sex"]].to_numpy()[kept]])
    fit = np.linalg.lstsq(design, y, rcond=None)[0]
    assert fit[1] == pytest.approx(0.02, abs=0.015)
    assert fit[2] == pytest.approx(0.3, abs=0.25)
    residual = y - design @ fit
    assert 1.5 < residual.var() < 2.2  # noise about 1.2, random effects 0.3, loci 0.3
    g = calls(dataset)[:, kept]
    for locus in truth.itertuples():
        x = g[dataset.find_variants([locus.variant_id])[0]]
        called = ~np.isnan(x)
        z, r = x[called] - x[called].mean(), residual[called]
        additive, se = z @ r / (z @ z), np.sqrt(r.var() / (z @ z))
        assert abs(additive - locus.additive_effect) < 4.5 * se
        assert abs(additive / se) > 5 or locus.additive_effect == 0
        e = r - r.mean() - additive * z
        # The slope of squared residuals on the genotype, to first order: the other components of
        # the residual variance dilute it.
        slope, se = z @ (e**2 / np.mean(e**2)) / (z @ z), np.sqrt(2 / (z @ z))
        assert np.sign(locus.log_variance_effect) * slope / se > 4 or (
            locus.log_variance_effect == 0 and abs(slope / se) < 4
        )


def test_linkage_correlates_neighbours(tmp_path):
    dataset, *_ = tables(
        simulate_cohort(tmp_path / "sim", linkage=0.9, **SMALL | {"n_samples": 500})
    )
    correlation = np.corrcoef(np.nan_to_num(calls(dataset)[:40], nan=1.0))
    assert np.abs(np.diag(correlation, 1)).mean() > 0.2
    assert np.abs(np.diag(correlation, 30)).mean() < 0.1


def test_gamma_variance_follows_the_mean(tmp_path):
    cohort = simulate_cohort(
        tmp_path / "sim",
        model="gamma",
        n_samples=20_000,
        variants_per_chromosome=60,
        missing_calls=0,
        missing_phenotypes=0,
    )
    assert cohort.random_effects is None
    assert [bed.name for bed in cohort.beds] == ["chr1.bed"]
    dataset, truth, people = tables(cohort)
    assert len(truth) == 60
    dispersed = truth.dispersion_effect != 0
    assert dispersed.tolist() == [True] + [False] * 59
    relation = 2 / 10.0 * truth.additive_effect
    np.testing.assert_allclose(
        truth.log_variance_effect - relation, truth.dispersion_effect, atol=1e-9
    )

    y = people["trait1"].to_numpy()
    assert y.mean() == pytest.approx(10, rel=0.02)
    assert y.min() > 0
    g = calls(dataset)
    z = g - g.mean(axis=1, keepdims=True)
    ss = (z**2).sum(axis=1)
    additive = z @ (y - y.mean()) / ss
    assert np.corrcoef(additive, truth.additive_effect)[0, 1] > 0.9
    # Per genotype class of the first variant, as a plain reading of the definition.
    variances = [np.log(y[g[0] == c].var()) for c in range(3)]
    slope = (variances[2] - variances[0]) / 2
    assert slope == pytest.approx(truth.log_variance_effect[0], abs=0.12)


def test_nothing_is_overwritten_unasked(tmp_path):
    simulate_cohort(tmp_path, **SMALL)  # a folder that exists is fine
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"chr1\.bed is there already, and 12 more of the files"):
        simulate_cohort(tmp_path, seed=2, **SMALL)
    assert contents(tmp_path) == before
    (tmp_path / "mine.txt").write_text("mine")
    simulate_cohort(tmp_path, seed=2, overwrite=True, **SMALL)
    assert contents(tmp_path)["truth.tsv"] != before["truth.tsv"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_failed_write_leaves_no_files(tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cohort_files, "_write_tables", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        simulate_cohort(tmp_path, **SMALL)
    assert contents(tmp_path) == {}
    with pytest.raises(InputError, match="cannot be written: No such file"):
        simulate_cohort(tmp_path / "absent" / "sim", **SMALL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "beta"}, "unknown model 'beta'"),
        ({"n_samples": 1}, "two people"),
        ({"chromosomes": 0}, "a chromosome"),
        ({"seed": -1}, "must not be negative"),
        ({"n_random_effects": 115}, r"3 × 40 variants have no room for 6 planted loci and 115"),
        ({"variants_per_chromosome": 5}, "6 variants a chromosome are needed"),
        ({"missing_calls": 1.0}, r"missing_calls must be in \[0, 1\), not 1.0"),
        ({"linkage": -0.1}, "linkage must be"),
        ({"random_variance": -1.0}, "variances must not be negative"),
        ({"gamma_shape": 0.0}, "are positive"),
    ],
)
def test_bad_arguments(tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        simulate_cohort(tmp_path / "sim", **{**SMALL, **arguments})
    assert not (tmp_path / "sim").exists()


def test_without_random_effects(tmp_path):
    cohort = simulate_cohort(tmp_path, **{**SMALL, "n_random_effects": 0})
    assert cohort.random_effects is None
    assert not (tmp_path / "random_effects.txt").exists()
    assert dataclasses.is_dataclass(cohort)
