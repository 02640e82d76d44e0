"""Cohorts made by hand, as tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

BASES = np.array(list("ACGT"), object)
COMPLEMENT = dict(zip("ACGT", "TGCA", strict=True))
WORDS = ("add", "var")


def variants(m: int, seed: int = 1) -> pd.DataFrame:
    """Places and alleles of m variants on chromosomes 1, 2, 10 and X; a tenth are longer ones."""
    rng = np.random.default_rng(seed)
    contig = np.sort(rng.integers(0, 4, m))
    position = rng.choice(10**6, m, replace=False) + 1
    position = position[np.lexsort((position, contig))]
    order = np.lexsort((position, contig))
    other = rng.integers(0, 4, m)
    effect = (other + rng.integers(1, 4, m)) % 4
    table = pd.DataFrame(
        {
            "contig": np.array(["1", "2", "10", "X"], object)[contig],
            "position": position[order],
            "variant_id": [f"rs{k}" for k in range(m)],
            "effect_allele": BASES[effect],
            "other_allele": BASES[other],
        }
    )
    longer = rng.random(m) < 0.1
    table.loc[longer, "effect_allele"] = table["other_allele"][longer] + "AT"
    return table


def cohort(places: pd.DataFrame, seed: int, n: int = 1000) -> pd.DataFrame:
    """A cohort's results at some variants; those of frequencies near ½ are left out."""
    m = len(places)
    common = np.random.default_rng(99).uniform(0.05, 0.3, m)
    rng = np.random.default_rng(seed)
    frequency = np.clip(common + rng.uniform(-0.03, 0.03, m), 0.01, 0.4)
    g = 2 * frequency * (1 - frequency) * n
    add_se, var_se = 1 / np.sqrt(g), np.sqrt(2 / g)
    robust = var_se * rng.uniform(1.0, 1.2)
    z = rng.standard_normal((2, m)) + 3.0  # all effects are positive, of the effect allele
    z = np.maximum(z, 0.3)
    p = -np.log10(2) - np.log10(np.exp(1)) * _log_tail(z)
    return places.assign(
        n=n,
        effect_allele_frequency=frequency,
        add=z[0] * add_se,
        add_se=add_se,
        add_neg_log10_p=p[0],
        var=z[1] * robust,
        var_se=var_se,
        var_neg_log10_p=p[1],
        add_var_cov=0.0,
        av_neg_log10_p=p[0] + p[1],
        add_se_robust=add_se,
        var_se_robust=robust,
        add_var_cov_robust=0.1 * add_se * robust,
        status="ok",
    )


def _log_tail(z: np.ndarray) -> np.ndarray:
    from scipy.special import log_ndtr

    return log_ndtr(-z)


def swapped(table: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """The same results, at some rows those of the other allele."""
    table = table.copy()
    effect, other = table["effect_allele"].copy(), table["other_allele"].copy()
    table.loc[rows, "effect_allele"], table.loc[rows, "other_allele"] = other[rows], effect[rows]
    for name in WORDS:
        if name in table:
            table.loc[rows, name] *= -1
    f = table["effect_allele_frequency"]
    table.loc[rows, "effect_allele_frequency"] = 1 - f[rows]
    return table


def other_strand(table: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """The same results, single bases of some rows named on the other strand."""
    table = table.copy()
    for name in ("effect_allele", "other_allele"):
        single = (
            rows & (table["effect_allele"].str.len() == 1) & (table["other_allele"].str.len() == 1)
        )
        table.loc[single, name] = table.loc[single, name].map(COMPLEMENT)
    return table


def palindromic(table: pd.DataFrame) -> np.ndarray:
    """Which rows are A/T or C/G."""
    return np.array(
        [
            COMPLEMENT.get(e) == o
            for e, o in zip(table.effect_allele, table.other_allele, strict=True)
        ]
    )


def write(table: pd.DataFrame, path: Path) -> Path:
    """Write a cohort as our export has it."""
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="," if ".csv" in path.name else "\t", index=False, na_rep="NA")
    return path


def write_ssf(table: pd.DataFrame, path: Path, effect: str) -> Path:
    """Write one effect of a cohort as GWAS-SSF."""
    number = {"X": "23"}
    pd.DataFrame(
        {
            "chromosome": [number.get(c, c) for c in table["contig"]],
            "base_pair_location": table["position"],
            "effect_allele": table["effect_allele"],
            "other_allele": table["other_allele"],
            "beta": table[effect],
            "standard_error": table[f"{effect}_se"],
            "effect_allele_frequency": table["effect_allele_frequency"],
            "neg_log_10_p_value": table[f"{effect}_neg_log10_p"],
            "rsid": "#NA",
            "n": table["n"],
        }
    ).to_csv(path, sep="\t", index=False)
    return path
