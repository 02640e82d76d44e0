"""Real mice: trait1 on chromosome 17 against an independent implementation."""

import warnings

import numpy as np
import pandas as pd
import pytest

from hlmm_scan.models import HLM, HLMM


@pytest.fixture(scope="module")
def mouse(shared_data):
    """Prepared phenotype, a reader of genotypes by variant id, the 300 random effects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bed_reader = pytest.importorskip("bed_reader")
        folder = shared_data / "mouse"
        trait = pd.read_csv(folder / "pheno.tsv", sep="\t")["trait1"].to_numpy()
        analysed = np.isfinite(trait)
        bim = pd.read_csv(folder / "mouse_hs1940.bim", sep="\t", header=None)
        row = {name: i for i, name in enumerate(bim[1])}
        bed = bed_reader.open_bed(folder / "mouse_hs1940.bed", count_A1=True)

        def read(names):
            calls = bed.read(np.s_[:, [row[name] for name in names]], dtype="float64")[analysed]
            assert not np.isnan(calls).any()
            return calls - calls.mean(axis=0)

        G = read((folder / "random300_not17.txt").read_text().split())
        reference = {
            name: pd.read_csv(shared_data / "reference" / f"mouse_t1_chr17_{name}.csv").dropna()
            for name in ("hlm", "hlmm300")
        }
        tested = read(reference["hlm"]["variant_id"])
    y = trait[analysed] - trait[analysed].mean()
    genotypes = dict(zip(reference["hlm"]["variant_id"], tested.T, strict=True))
    return y / y.std(), genotypes, G / G.std(axis=0) / np.sqrt(G.shape[1]), reference


def check(fit, row):
    assert fit.success
    assert abs(fit.alpha[1] - row["add"]) < 1e-4 * row["add_se"]
    assert abs(fit.beta[1] - row["var"]) < 1e-4 * row["var_se"]
    assert abs(fit.log_likelihood - row["log_likelihood"]) < 1e-3


def check_observed(fit, row):
    correlation = fit.covariance[1, 3] / (fit.alpha_se[1] * fit.beta_se[1])
    assert fit.alpha_se[1] == pytest.approx(row["add_se_observed"], rel=1e-6)
    assert fit.beta_se[1] == pytest.approx(row["var_se_observed"], rel=1e-6)
    assert correlation == pytest.approx(row["add_var_correlation_observed"], abs=1e-6)


def test_hlm_agrees_with_the_reference(mouse):
    y, genotypes, _, reference = mouse
    rows = reference["hlm"]
    assert len(rows) > 300
    for _, row in rows.iterrows():
        X = np.column_stack((np.ones(len(y)), genotypes[row["variant_id"]]))
        fit = HLM(y, X, X).fit()
        check(fit, row)
        assert fit.alpha_se[1] == pytest.approx(row["add_se"], rel=1e-6)
        assert fit.beta_se[1] == pytest.approx(row["var_se"], rel=1e-6)
        check_observed(HLM(y, X, X).fit(start=fit.beta, information="observed"), row)


def test_hlmm_agrees_with_the_reference(mouse):
    y, genotypes, G, reference = mouse
    rows = reference["hlmm300"]
    assert len(rows) == 46
    one = np.ones(len(y))
    null = HLMM(y, one, one, G).fit()
    for _, row in rows.iterrows():
        X = np.column_stack((one, genotypes[row["variant_id"]]))
        start = (np.append(null.beta, 0.0), null.random_variance)
        fit = HLMM(y, X, X, G).fit(start=start, information="observed")
        check(fit, row)
        check_observed(fit, row)
        assert abs(fit.random_variance - row["h2"]) < 1e-4 * row["h2_se"]
        assert fit.random_variance_se == pytest.approx(row["h2_se"], rel=1e-6)
