"""Print planted loci beside what a scan found; fail if one was missed.

Usage: planted_loci.py TRUTH RESULTS
"""

from __future__ import annotations

import math
import sys

import pandas as pd
import xarray as xr

LINE = "{:<14}{:>3}{:>9}{:>18}{:>11}{:>9}{:>18}{:>11}"


def main(truth_path: str, results_path: str) -> int:
    truth = pd.read_csv(truth_path, sep="\t").set_index("variant_id")
    dataset = xr.open_zarr(results_path)
    found = dataset.isel(phenotype=0).to_dataframe().set_index("variant_id")
    threshold = -math.log10(0.05 / len(found))
    print(f"\n{len(found):,} variants, genome-wide threshold −log10 p = {threshold:.2f}\n")
    print(LINE.format("variant", "chr", "planted", "additive effect", "-log10 p", "planted",
                      "variance effect", "-log10 p"))  # fmt: skip
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
    hits = (others[["add_neg_log10_p", "var_neg_log10_p"]] > threshold).any(axis=1).sum()
    print(f"\n* beyond the threshold; {hits} other variants are")
    print(f"random effects: {found['random_variance_fraction'].median():.1%} of the variance")
    print(f"result: {results_path}   (xarray.open_zarr, or hlmm-scan status / export)")
    if missed:
        print(f"planted but missed: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
