"""Print planted loci beside what a scan found; fail if one was missed.

Usage: planted_loci.py TRUTH RESULTS RANDOM_EFFECTS
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
import xarray as xr

LINE = "{:<10}{:>4}{:>9}{:>18}{:>11}{:>9}{:>18}{:>11}"
HEADER = (
    *("variant", "chr", "planted", "additive effect", "-log10 p"),
    *("planted", "variance effect", "-log10 p"),
)


def main(truth_path: str, results_path: str, random_effects_path: str) -> int:
    truth = pd.read_csv(truth_path, sep="\t").set_index("variant_id")
    dataset = xr.open_zarr(results_path)
    found = dataset.isel(phenotype=0).to_dataframe().set_index("variant_id")
    threshold = -math.log10(0.05 / len(found))
    print(f"\n{len(found):,} variants, threshold −log10(0.05 / variants) = {threshold:.2f}\n")
    print(LINE.format(*HEADER))
    missed = []
    for variant, locus in truth.iterrows():
        row = found.loc[variant]
        cells = [str(variant), str(locus["contig"])]
        for planted, estimate in (("additive_effect", "add"), ("log_variance_effect", "var")):
            log_p = row[f"{estimate}_neg_log10_p"]
            cells.append(f"{locus[planted]:+.2f}")
            cells.append(f"{row[estimate]:+.3f} ± {row[f'{estimate}_se']:.3f}")
            cells.append(f"{log_p:.2f}{'*' if log_p > threshold else ' '}")
            if locus[planted] != 0 and not log_p > threshold:
                missed.append(f"{variant} ({estimate})")
        print(LINE.format(*cells))
    others = found.drop(index=truth.index)
    hits = others[(others[["add_neg_log10_p", "var_neg_log10_p"]] > threshold).any(axis=1)]
    small = len(hits.index.intersection(Path(random_effects_path).read_text().split()))
    share = found["random_variance_fraction"].median()
    print(
        f"\n* beyond the threshold. {len(hits)} other variants are, {small} of them random effects"
    )
    print("  (each has a small additive effect). Planted variance effects are on the noise alone;")
    print(
        "  the variance that a test sees holds the other loci's effects too, so estimates are less."
    )
    print(f"\nrandom effects: {share:.1%} of the variance, the tested chromosome's left out")
    print(f"result: {results_path}   (xarray.open_zarr, or hlmm-scan status / export)")
    if missed:
        print(f"planted but missed: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
