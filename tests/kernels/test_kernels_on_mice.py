"""Real mice with calls blanked, people shuffled and some absent, one variant at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hlmm_scan.cohort.cohort import CohortBuilder
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.genotypes.blocks import HardCalls
from hlmm_scan.genotypes.packing import MISSING, unpack
from hlmm_scan.genotypes.readers.plink import PlinkFileset
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.models import HLM, HLMM
from hlmm_scan.null.fit import fit_null
from hlmm_scan.null.random_effects import RandomEffectSource
from hlmm_scan.schema import Status

OPTIONS = FitOptions(min_maf=0.05, min_mac=20, max_missing=0.05)


@pytest.fixture(scope="module")
def mice(shared_data, tmp_path_factory):
    """Blanked calls of every 97th variant, and shuffled tables that each lack some mice."""
    rng = np.random.default_rng(17)
    bed = PlinkFileset.open(shared_data / "mouse" / "mouse_hs1940.bed")
    m = 12_226
    calls = unpack(bed.read_packed(0, m)[::97], bed.n_samples)
    calls[rng.random(calls.shape) < 0.03] = MISSING
    contig = np.concatenate([table.contig for table in bed.read_variants()])[::97]
    pheno = pd.read_csv(shared_data / "mouse" / "pheno.tsv", sep="\t", dtype={"trait1": str})
    folder = tmp_path_factory.mktemp("mice")
    ids = pheno[["FID", "IID"]]
    covariates = ids.assign(
        age=rng.gamma(20.0, 3.0, len(ids)),
        sex=rng.integers(0, 2, len(ids)),
        cage=rng.normal(size=len(ids)),
    )
    tables = {
        "pheno": pheno[["FID", "IID", "trait1"]],
        "mean": covariates[["FID", "IID", "age", "sex"]],
        "variance": covariates[["FID", "IID", "sex", "cage"]],
    }
    for seed, (name, table) in enumerate(tables.items()):
        rows = table.sample(frac=0.96, random_state=seed)
        rows.to_csv(folder / f"{name}.tsv", sep="\t", index=False, na_rep="NA")
    return bed.samples, calls, contig, {name: folder / f"{name}.tsv" for name in tables}


def aligned(samples, paths):
    """The same people by a merge of the tables: rows of the samples, y, X and V in raw units."""
    frame = pd.DataFrame({"IID": samples.individual_id, "row": np.arange(len(samples))})
    for name, path in paths.items():
        table = pd.read_csv(path, sep="\t", dtype={"IID": str}).drop(columns="FID")
        frame = frame.merge(table, on="IID", suffixes=("", f"_{name}"))
    return frame.dropna().sort_values("row")


@pytest.mark.parametrize("covariates", [False, True], ids=["classes", "joint"])
def test_scans_of_blanked_mice_agree_with_the_models_in_raw_units(mice, covariates):
    samples, calls, contig, paths = mice
    used = paths if covariates else {"pheno": paths["pheno"]}
    tables = {name: read_table(path) for name, path in used.items()}
    builder = CohortBuilder(samples, tables["pheno"], tables.get("mean"), tables.get("variance"))
    null, _ = fit_null(builder.build("trait1"), None, seed_mode=False, left_out=())
    found = fit_block(null, HardCalls.of(calls), contig, OPTIONS)
    frame = aligned(samples, used)
    np.testing.assert_array_equal(null.samples, frame["row"])
    y = frame["trait1"].to_numpy()
    one = np.ones((len(y), 1))
    X = np.column_stack([one, frame[["age", "sex"]]]) if covariates else one
    V = np.column_stack([one, frame[["sex", "cage"]]]) if covariates else one
    fitted = np.flatnonzero(found["status"] == Status.OK)
    assert len(fitted) > 70
    assert set(found["status"]) <= {Status.OK, *range(Status.MONOMORPHIC, Status.LOW_INFO)}
    # With covariates the Newton step may be 1e-3 of a standard error from the maximum.
    effect, error, likelihood = (1e-3, 3e-3, 5e-3) if covariates else (1e-7, 1e-7, 1e-7)
    for row in fitted:
        g = calls[row, frame["row"]]
        called = g != MISSING
        assert found["n"][row] == called.sum() < len(y)
        g = g[called] - g[called].mean()
        fit = HLM(y[called], np.column_stack([X[called], g]), np.column_stack([V[called], g])).fit()
        assert abs(found["add"][row] - fit.alpha[-1]) <= effect * fit.alpha_se[-1]
        assert abs(found["var"][row] - fit.beta[-1]) <= effect * fit.beta_se[-1]
        assert found["add_se"][row] == pytest.approx(fit.alpha_se[-1], rel=error)
        assert found["var_se"][row] == pytest.approx(fit.beta_se[-1], rel=error)
        assert found["log_likelihood"][row] == pytest.approx(fit.log_likelihood, abs=likelihood)


def test_mixed_scans_of_blanked_mice_agree_with_the_models_in_raw_units(mice):
    samples, calls, contig, paths = mice
    builder = CohortBuilder(samples, read_table(paths["pheno"]))
    cohort = builder.build("trait1")
    source = RandomEffectSource(
        genotypes=HardCalls.of(calls[::3]),
        variant_ids=tuple(f"v{k}" for k in range(len(calls[::3]))),
        contigs=tuple(str(c) for c in contig[::3]),
        rows=np.arange(len(samples)),
        positions=None,
        fingerprint="",
    )
    effects = source.for_people(cohort.samples, "trait1")
    null, _ = fit_null(cohort, effects, seed_mode=False, left_out=sorted(set(effects.contigs)))
    chosen = np.arange(1, len(calls), 21)
    found = fit_block(null, HardCalls.of(calls[chosen]), contig[chosen], FitOptions(0.05, 20, 0.06))
    frame = aligned(samples, {"pheno": paths["pheno"]})
    y = frame["trait1"].to_numpy()
    copies = np.where(calls == MISSING, np.nan, calls.astype(float))[:, frame["row"]]
    tested = np.flatnonzero(found["status"] == Status.OK)
    assert len(tested) >= 4
    for k in tested:
        row = chosen[k]
        others = copies[::3][contig[::3] != contig[row]]
        others = others[np.nanstd(others, axis=1) > 0]
        G = others - np.nanmean(others, axis=1, keepdims=True)
        G = np.nan_to_num(G)
        G = (G / G.std(axis=1, keepdims=True)).T / np.sqrt(len(G))
        called = np.isfinite(copies[row])
        g = copies[row, called] - copies[row, called].mean()
        X = np.column_stack([np.ones(called.sum()), g])
        fit = HLMM(y[called], X, X, G[called]).fit()
        assert fit.status is Status.OK
        assert abs(found["add"][k] - fit.alpha[-1]) <= 1e-7 * fit.alpha_se[-1]
        assert abs(found["var"][k] - fit.beta[-1]) <= 1e-7 * fit.beta_se[-1]
        h2_error = abs(found["random_variance"][k] - fit.random_variance)
        assert h2_error <= 1e-7 * fit.random_variance_se
        assert found["log_likelihood"][k] == pytest.approx(fit.log_likelihood, abs=1e-6)
