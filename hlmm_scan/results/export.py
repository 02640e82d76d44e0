"""Results as text files that other programs read, written partition by partition."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.errors import InputError, nearest
from hlmm_scan.models.inference import neg_log10_p
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import COORDINATES, Status
from hlmm_scan.staging import read_error, write_error

ROWS_PER_READ = 65_536

SEED_COLUMNS = (
    "SNP", "n", "frequency", "likelihood", "add", "add_se", "add_t", "add_pval",
    "var", "var_se", "var_t", "var_pval", "av_pval",
)  # fmt: skip
"""Columns of the 2018 script; ``*_pval`` are −log10 p."""

FORMATS = ("tsv", "seed")


def export(store: ResultStore, output: Path, kind: str, phenotypes: Sequence[str] = ()) -> int:
    """Write results as a tab-separated table, gzipped where the name ends in ``.gz``.

    Parameters
    ----------
    store : ResultStore
        Complete or not: pending tests are left out.
    output : Path
    kind : {"tsv", "seed"}
        ``tsv``: every coordinate and variable under its own name, one row a test, phenotype after
        phenotype. ``seed``: the columns of the 2018 script for one phenotype, effects per copy of
        PLINK's A2 and the frequency of the minor allele, as it has them.
    phenotypes : sequence of str, default all
        For ``seed`` exactly one where the store has several.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InputError
        If a phenotype is unknown, several are asked for in ``seed``, or the file cannot be
        written.
    """
    known = store.phenotypes
    for name in phenotypes:
        if name not in known:
            raise InputError(f"{store.path}: unknown phenotype '{name}'{nearest(name, known)}")
    chosen = [known.index(name) for name in phenotypes] or list(range(len(known)))
    if kind == "seed" and len(chosen) > 1:
        raise InputError(
            f"{store.path}: the seed format holds one phenotype, this store has "
            f"{len(known)}; name it with --phenotype"
        )
    rows = 0
    scratch = output.with_name(f".{output.name}.partial")
    try:
        with _open(scratch, compressed=output.suffix == ".gz") as file:
            for index, frame in enumerate(_frames(store, chosen)):
                table = _seed_frame(frame) if kind == "seed" else frame
                table.to_csv(
                    file, sep="\t", index=False, header=index == 0, na_rep="NA", lineterminator="\n"
                )
                rows += len(table)
        scratch.replace(output)
    except OSError as error:
        if str(error.filename).startswith(f"{store.path}/"):
            raise read_error(store.path, error) from error
        raise write_error(output, error) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
    return rows


def _open(path: Path, *, compressed: bool) -> IO[str]:
    if compressed:
        return cast(IO[str], gzip.open(path, "wt", compresslevel=6))
    return path.open("w")


def _frames(store: ResultStore, phenotypes: Sequence[int]) -> Iterator[pd.DataFrame]:
    """Yield finished rows, a bounded number at a time."""
    n_variants = store.array("status").shape[1]
    step = -(-ROWS_PER_READ // store.array("status").chunks[1]) * store.array("status").chunks[1]
    for phenotype in phenotypes:
        for start in range(0, max(n_variants, 1), step):
            stop = min(start + step, n_variants)
            columns: dict[str, Any] = {
                v.name: _text_or_numbers(store.array(v.name)[start:stop])
                for v in COORDINATES
                if v.name != "phenotype"
            }
            columns = {"phenotype": store.phenotypes[phenotype], **columns}
            values = store.read_partition(phenotype, start, stop)
            status = values.pop("status")
            columns.update(values)
            columns["status"] = [Status(int(s)).label for s in status]
            frame = pd.DataFrame(columns)
            yield frame[status != Status.PENDING]


def _text_or_numbers(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype.kind in "iuf" else array.astype(object)


def _seed_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the 2018 script's columns.

    It counts copies of A2, so the mean and variance effects change sign; its joint test adds the
    two squared t values without their covariance.
    """
    frequency = frame["effect_allele_frequency"]
    add, var = -frame["add"], -frame["var"]
    add_t, var_t = add / frame["add_se"], var / frame["var_se"]
    columns = {
        "SNP": frame["variant_id"],
        "n": frame["n"],
        "frequency": np.minimum(frequency, 1 - frequency),
        "likelihood": frame["log_likelihood"],
        "add": add,
        "add_se": frame["add_se"],
        "add_t": add_t,
        "add_pval": frame["add_neg_log10_p"],
        "var": var,
        "var_se": frame["var_se"],
        "var_t": var_t,
        "var_pval": frame["var_neg_log10_p"],
        "av_pval": neg_log10_p((add_t**2 + var_t**2).to_numpy(), 2),
    }
    return pd.DataFrame(columns)[list(SEED_COLUMNS)]
