"""Results of one phenotype made by hand, and names as nasty as names can be."""

from __future__ import annotations

import numpy as np
import xarray as xr

from hlmm_scan.schema import Status

NASTY_TRAIT = "<script>alert('trait')</script>&\"$x$"
NASTY_VARIANT = "<img/src=x&onerror=alert(1)>\"'$y_"


def by_hand(
    n: int, *, contigs: tuple[str, ...] = ("2", "10", "1"), seed: int = 1, hits: int = 5
) -> xr.Dataset:
    """Results of one phenotype without effects but for some planted hits, in memory."""
    rng = np.random.default_rng(seed)
    contig = np.repeat(np.array(contigs, dtype=object), -(-n // len(contigs)))[:n]
    position = rng.integers(1, 1_000_000, n).astype(np.int32)
    uniform = {test: rng.uniform(size=n) for test in ("add", "var", "av")}
    columns = {
        "n": np.full(n, 1000, np.int32),
        "effect_allele_frequency": rng.uniform(0.05, 0.95, n),
        "add": rng.normal(0, 0.1, n),
        "add_se": np.full(n, 0.1),
        "var": rng.normal(0, 0.2, n),
        "var_se": np.full(n, 0.2),
        "status": np.full(n, Status.OK, np.int8),
    }
    for test, p in uniform.items():
        columns[f"{test}_lrt_neg_log10_p"] = -np.log10(p)
        score = -np.log10(p)
        score[rng.choice(n, min(hits, n), replace=False)] = rng.uniform(8, 60, min(hits, n))
        columns[f"{test}_neg_log10_p"] = score
    return xr.Dataset(
        {name: ("variant", column) for name, column in columns.items()},
        coords={
            "phenotype": "height",
            "variant_id": ("variant", np.array([f"rs{k}" for k in range(n)], dtype=object)),
            "contig": ("variant", contig),
            "position": ("variant", position),
            "effect_allele": ("variant", np.full(n, "A", dtype=object)),
            "other_allele": ("variant", np.full(n, "C", dtype=object)),
        },
    )
