"""The published tests of variance and quantiles on their authors' own examples.

QUAIL (Miao and others, PNAS 2022): a trait's integrated rank score regressed on each variant, and
what is left of it when the trait's mean is accounted for. Quantile rank scores (Wang and others,
Nat Commun 2024). Both plainly, a variant at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from published import Figure, digits_apart, figure_of, printed
from scipy.optimize import linprog
from scipy.stats import cauchy, chi2, norm, t

from hlmm_scan.analysis.slope import Effects, huber_slope, published_slope
from hlmm_scan.array_types import Float
from hlmm_scan.genotypes.readers.plink import PlinkFileset
from hlmm_scan.genotypes.variants import VariantTable

QUAIL = "QUAIL, test set"
LEVELS = 2_000
"""Of the published integrated rank score."""
QUANTILES = "quantile regression, example"
TAUS = np.arange(1, 10) / 10

_ON_THE_FIT = 1e-9


@dataclass(frozen=True)
class Regression:
    """Slopes of a trait on each of m variants beside covariates, each (m,)."""

    effect: Float
    error: Float
    p: Float
    n: Float

    @classmethod
    def of(cls, y: Float, copies: Float, covariates: Float) -> Regression:
        """Fit least squares among those who have each variant, (m, n)."""
        found = np.empty((4, len(copies)))
        for k, g in enumerate(copies):
            there = np.isfinite(g)
            X = np.column_stack([g[there], covariates[there]])
            free = len(X) - X.shape[1]
            inverse = np.linalg.inv(X.T @ X)
            coefficients = inverse @ (X.T @ y[there])
            residual = y[there] - X @ coefficients
            error = np.sqrt(residual @ residual / free * inverse[0, 0])
            p = 2 * t.sf(abs(coefficients[0]) / error, free)
            found[:, k] = coefficients[0], error, p, len(X)
        return cls(*found)


class Quail:
    """QUAIL's test set: trait, score and results, and ours.

    Attributes
    ----------
    variance, dispersion : DataFrame
        Theirs.
    on_variance, on_mean, beside_the_trait : Regression
        On the score; on the trait; on the score with the trait among the covariates.
    """

    def __init__(self, folder: Path) -> None:
        fileset = PlinkFileset.open(folder / "test.bed")
        (table,) = fileset.read_variants()
        calls = fileset.reader().read_block(0, len(table)).block.copies()
        people = list(fileset.samples.individual_id)

        def of_people(name: str) -> Float:
            read = pd.read_csv(folder / name, sep="\t", dtype={"IID": str}).set_index("IID")
            return read.loc[people].drop(columns="FID").to_numpy(float)

        self.trait = of_people("pheno_test.txt")[:, 0]
        self.score = of_people("pheno_rank_score.txt")[:, 0]
        self.covariates = np.column_stack([np.ones(len(people)), of_people("covar_test.txt")])
        self.variance = pd.read_csv(folder / "vQTL_scan_QUAIL_vQTL.txt", sep="\t")
        self.dispersion = pd.read_csv(folder / "vQTL_scan_QUAIL_Disp.txt", sep="\t")
        self.on_variance = Regression.of(
            self.score, counting(self.variance, table, calls), self.covariates
        )
        # Where alleles are as frequent, one table counts the other one.
        calls = counting(self.dispersion, table, calls)
        self.on_mean = Regression.of(self.trait, calls, self.covariates)
        beside = np.column_stack([self.covariates, self.trait])
        self.beside_the_trait = Regression.of(self.score, calls, beside)


def counting(results: pd.DataFrame, table: VariantTable, copies: Float) -> Float:
    """Return copies of the alleles that a table of results counts."""
    if list(results["SNP"]) != list(table.variant_id):
        raise ValueError("the results are of other variants than the genotypes")
    counted = table.effect_allele == results["A1"].to_numpy()
    return np.where(counted[:, np.newaxis], copies, 2 - copies)


def quail(folder: Path, *, quick: bool = False) -> Iterator[Figure]:
    """Yield effects and dispersion effects of QUAIL's test set beside the published ones."""
    own = Quail(folder)
    for what, found, table, suffix in (
        ("variance", own.on_variance, own.variance, ""),
        ("mean", own.on_mean, own.dispersion, "_add"),
    ):
        top = int(table[f"P{suffix}"].argmin())
        for name, column, ours, within in (
            ("effects", "BETA", found.effect, 0),
            ("standard errors", "SE", found.error, 0),
            ("p", "P", found.p, 1),
        ):
            yield figure_of(
                *(QUAIL, f"{name} on the {what}, {table['SNP'][top]}"),
                *(table[column + suffix], ours, within),
                shown=top,
                apart=digits_apart,
                unit="in the sixth digit",
            )
    yield from _dispersion(own)
    if not quick:
        score = integrated_rank_score(own.trait, own.covariates, LEVELS)
        correlation = float(np.corrcoef(score, own.score)[0, 1])
        yield Figure(
            *(QUAIL, "its score of the trait: correlation (a random covariate is in it)"),
            *(len(score), "1", f"{correlation:.6f}", 1 - correlation, 1e-3),
        )


def _dispersion(own: Quail) -> Iterator[Figure]:
    """Yield the slope of variance on mean effects, and what is left of each beside it."""
    table = own.dispersion
    # Published from what PLINK printed, six digits of each.
    add, var = printed(own.on_mean.effect), printed(own.beside_the_trait.effect)
    add_se, var_se = printed(own.on_mean.error), printed(own.beside_the_trait.error)
    noise = float(np.mean(add_se**2))
    inflation = 1 + noise / (float(np.var(add, ddof=1)) - noise)
    slope = inflation * as_rlm_stops(add, var)
    dispersion, error = var - slope * add, np.sqrt(var_se**2 + slope**2 * add_se**2)
    top = int(table["P_disp"].argmin())

    def read_off(dispersion: Float) -> float:
        return huber_slope(table["BETA_add"].to_numpy(), table["BETA_var"].to_numpy() - dispersion)[
            0
        ]

    yield figure_of(
        *(QUAIL, "slope of variance on mean, read off the table"),
        *(read_off(table["BETA_disp"].to_numpy()), read_off(dispersion), 1e-6),
        form=".4f",
    )
    for what, column, ours in (
        ("dispersion effects", "BETA_disp", dispersion),
        ("their standard errors", "SE_disp", error),
    ):
        yield figure_of(
            *(QUAIL, f"{what}, {table['SNP'][top]}"),
            *(table[column], ours, 1e-6),
            shown=top,
        )
    ours = published_slope(
        lambda: [Effects(np.arange(len(add)), add, var, add_se, var_se, np.zeros(len(add)))]
    ).slope
    yield figure_of(
        *(QUAIL, f"dispersion effects, the slope fitted to its end ({ours:.6f}, not {slope:.6f})"),
        *(table["BETA_disp"] / table["SE_disp"], (var - ours * add) / error, 0.01),
        shown=top,
        form=".4f",
        unit="SE",
    )


def as_rlm_stops(x: Float, y: Float) -> float:
    """Return Huber's slope of y on x as R's MASS::rlm gives it: it stops some rounds too early.

    Where residuals change by less than 1e-4 of themselves; :func:`huber_slope` goes on.
    """
    slope = float(x @ y) / float(x @ x)
    residual = y - slope * x
    for _ in range(20):
        scale = float(np.median(np.abs(residual))) / 0.6745
        weights = np.minimum(1, 1.345 * scale / np.abs(residual))
        slope = float((weights * x) @ y) / float((weights * x) @ x)
        before, residual = residual, y - slope * x
        if np.sum((residual - before) ** 2) <= 1e-8 * np.sum(before**2):
            break
    return slope


def integrated_rank_score(y: Float, covariates: Float, levels: int) -> Float:
    """Return QUAIL's score of a trait: upper quantiles' rank scores less the lower ones'.

    Each is τ − [residual < 0] over √(τ(1 − τ)), times the standard error of a standard normal
    covariate's coefficient there. QUAIL draws one such covariate, unseeded; here the error is the
    one expected, √(τ(1 − τ)·n)/Σ f, with f from Powell's kernel in Hall and Sheather's bandwidth
    as R's quantreg has them.
    """
    n, total = len(y), np.zeros(len(y))
    for k in range(1, levels + 1):
        tau = k / (levels + 1)
        residual = y - covariates @ quantile_fit(y, covariates, tau)[0]
        width = _bandwidth(tau, n)
        spread = min(residual.std(ddof=1), np.subtract(*np.quantile(residual, [0.75, 0.25])) / 1.34)
        h = float(spread * (norm.ppf(tau + width) - norm.ppf(tau - width)))
        density = float((norm.pdf(residual / h) / h).sum())
        total += (1 if k > levels / 2 else -1) * (tau - (residual < 0)) * np.sqrt(n) / density
    return total / (levels / 2)


def _bandwidth(tau: float, n: int) -> float:
    """Hall and Sheather's, for intervals of 95%, halved until both ends are quantiles."""
    x = norm.ppf(tau)
    h = norm.ppf(0.975) ** (2 / 3) * (1.5 * norm.pdf(x) ** 2 / (2 * x**2 + 1) / n) ** (1 / 3)
    while not h < min(tau, 1 - tau):
        h /= 2
    return float(h)


def quantile_fit(y: Float, covariates: Float, tau: float) -> tuple[Float, Float]:
    """Return coefficients of the τ-quantile, (c,), and its dual ranks, (n,), by linear programming.

    Dual ranks are 1 above the fitted quantile, 0 below, and between for those on it.
    """
    found = linprog(
        -y, A_eq=covariates.T, b_eq=(1 - tau) * covariates.sum(axis=0), bounds=(0, 1),
        method="highs-ds",
    )  # fmt: skip
    if not found.success:
        raise ValueError(f"no fit of the quantile {tau}: {found.message}")
    return -np.asarray(found.eqlin.marginals), np.asarray(found.x)


def rank_score_p(ranks: Float, projected: Float, tau: float) -> Float:
    """Return p of ranks, (n,), against variants freed of the covariates, (n, m)."""
    scores = projected.T @ (ranks - (1 - tau))
    return np.asarray(chi2.sf(scores**2 / (tau * (1 - tau) * (projected**2).sum(axis=0)), 1))


def quantiles(folder: Path) -> Iterator[Figure]:
    """Yield p of quantile rank scores of ten variants at nine quantiles beside the published ones.

    People on the fitted quantile were counted above or below as rounding had it: of all ways to do
    so, at most eight a quantile, the one is taken that is nearest to the ten published p.
    """
    people = pd.read_csv(folder / "example.phenotype.tsv", sep="\t").set_index("IID")
    genotypes = pd.read_csv(folder / "example.genotype.tsv", sep="\t").set_index("IID").iloc[:, 5:]
    published = pd.read_csv(folder / "example.sumstat.tsv", sep="\t").set_index("ID")
    published = published.loc[list(genotypes.columns)]
    y = people["PHENOTYPE"].to_numpy(float)
    covariates = np.column_stack([np.ones(len(y)), people[["COVAR1", "COVAR2"]].to_numpy(float)])
    g = genotypes.loc[people.index].to_numpy(float)
    projected = g - covariates @ np.linalg.lstsq(covariates, g, rcond=None)[0]
    found, by_dual, on_the_fit = [], [], 0
    for tau in TAUS:
        theirs = published[f"P_QR{tau:.1f}"].to_numpy()
        coefficients, dual = quantile_fit(y, covariates, tau)
        residual = y - covariates @ coefficients
        on = np.flatnonzero(np.abs(residual) < _ON_THE_FIT)
        on_the_fit += len(on)
        ways = []
        for sides in itertools.product((0.0, 1.0), repeat=len(on)):
            ranks = (residual > 0).astype(float)
            ranks[on] = sides
            ways.append(rank_score_p(ranks, projected, tau))
        found.append(min(ways, key=lambda p, theirs=theirs: relative(theirs, p)))
        by_dual.append(rank_score_p(dual, projected, tau))
    names = [f"P_QR{tau:.1f}" for tau in TAUS]
    theirs, ours = published[names].to_numpy(), np.array(found).T
    shown = int(theirs.argmin())
    what = f"p at nine quantiles, smallest (sides of {on_the_fit} people on a fit as theirs)"
    yield figure_of(QUANTILES, what, theirs, ours, 1e-10, shown=shown, apart=relative, unit="of p")
    both = cauchy_combined(ours)
    shown = int(published["P_QR"].argmin())
    yield figure_of(
        *(QUANTILES, "p of all quantiles combined, smallest"),
        *(published["P_QR"], both, 1e-10),
        shown=shown,
        apart=relative,
        unit="of p",
    )
    yield figure_of(
        *(QUANTILES, "−log10 p at nine quantiles by dual ranks, which need no sides"),
        *(-np.log10(theirs), -np.log10(np.array(by_dual).T), 0.2),
        shown=int(theirs.argmin()),
        unit="in −log10 p",
    )


def cauchy_combined(p: Float) -> Float:
    """Return the Cauchy combination (Liu & Xie 2020) of each row of p-values."""
    far = 1 / (np.pi * p)  # the quantile of tiny p, whose tangent would be rounded off
    return np.asarray(cauchy.sf(np.where(p < 1e-15, far, np.tan(np.pi * (0.5 - p))).mean(axis=1)))


def relative(published: Float, ours: Float) -> float:
    """Return the largest relative difference."""
    return float(np.abs(np.asarray(ours) / np.asarray(published) - 1).max())
