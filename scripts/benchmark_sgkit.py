"""Run by scripts/benchmark in sgkit's own environment: seconds of its linear regression.

Arguments: a folder with dosage.npy (variants, people) and trait.npy, and how often to repeat.
"""

import statistics
import sys
import time

import dask
import dask.array as da
import numpy as np
import sgkit
import xarray as xr

folder, repeats = sys.argv[1], int(sys.argv[2])
dosage = np.load(f"{folder}/dosage.npy").astype(np.float32)
data = xr.Dataset(
    {
        "call_dosage": (("variants", "samples"), da.from_array(dosage, chunks=(250, -1))),
        "trait": (("samples",), da.from_array(np.load(f"{folder}/trait.npy"))),
    }
)
times = []
with dask.config.set(scheduler="single-threaded"):
    for _ in range(repeats + 1):
        start = time.perf_counter()
        sgkit.gwas_linear_regression(
            data, dosage="call_dosage", covariates=[], traits=["trait"], add_intercept=True
        )["variant_linreg_p_value"].compute()
        times.append(time.perf_counter() - start)
print(statistics.median(times[1:]))
