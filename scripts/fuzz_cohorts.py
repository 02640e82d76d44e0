"""Cohorts to pool, spoilt at random: no effect may get the wrong sign without a word.

    scripts/fuzz_cohorts [--quick] [--count N] [--seed S]

Three cohorts have positive effects of one and the same allele everywhere. One or two of them are
then shuffled, named on the other strand, counted the other way, cut short, renamed, doubled or
damaged, some of it at once. Whatever `meta` does not refuse in one line must have no negative
effect of that allele, and no p-value of a variant that was not there.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from made_cohorts import BASES, COMPLEMENT, cohort, other_strand, swapped, variants, write

import hlmm_scan as hs
from hlmm_scan.errors import HlmmScanError

Frame = pd.DataFrame
Random = np.random.Generator


def some(table: Frame, rng: Random) -> np.ndarray:
    return rng.random(len(table)) < rng.choice([0.02, 0.5, 1.0])


def renamed_alleles(table: Frame, rng: Random) -> Frame:
    """Put other letters where alleles stand: other variants, or none."""
    table = table.copy()
    rows = some(table, rng)
    column = rng.choice(["effect_allele", "other_allele"])
    table.loc[rows, column] = rng.choice([*BASES, "N", "", ".", "a", "AT", "<DEL>"], rows.sum())
    return table


def names_swapped(table: Frame, rng: Random) -> Frame:
    """Swap the names of the alleles and nothing else: a wrong file, which frequencies betray."""
    table = table.copy()
    columns = ["effect_allele", "other_allele"]
    return table.rename(columns=dict(zip(columns, columns[::-1], strict=True)))


def spoilt_cell(table: Frame, rng: Random) -> Frame:
    table = table.astype(object)
    row, column = rng.integers(len(table)), rng.choice(table.columns)
    words = ["", "NA", "x", "-1", "inf", "1e999", "0", "1,5", "\u00e9", "NaN", " "]
    table.iloc[row, table.columns.get_loc(column)] = rng.choice(words)
    return table


def doubled(table: Frame, rng: Random) -> Frame:
    rows = table[some(table, rng)]
    return pd.concat([table, swapped(rows, rng.random(len(rows)) < 0.5)])


def chromosomes(table: Frame, rng: Random) -> Frame:
    table = table.copy()
    table["contig"] = str(rng.choice(["chr", "Chr_", "0", ""])) + table["contig"].astype(str)
    return table


def lower(table: Frame, rng: Random) -> Frame:
    return table.assign(effect_allele=table["effect_allele"].astype(str).str.lower())


SPOILERS: tuple[Callable[[Frame, Random], Frame], ...] = (
    lambda t, rng: t.sample(frac=1.0, random_state=int(rng.integers(1 << 30))),
    lambda t, rng: swapped(t, some(t, rng)),
    lambda t, rng: other_strand(t, some(t, rng)),
    lambda t, rng: t[rng.random(len(t)) < rng.uniform(0, 1)],
    lambda t, rng: t[rng.permutation(t.columns)],
    lambda t, rng: t.drop(columns=rng.choice(t.columns)),
    lambda t, rng: t.assign(status=rng.choice(["ok", "low_maf", "unbounded", "fine"], len(t))),
    renamed_alleles,
    names_swapped,
    spoilt_cell,
    doubled,
    chromosomes,
    lower,
)


def spoil_bytes(path: Path, rng: Random) -> None:
    """Cut a file, or overwrite a stretch of it with something that is no digit."""
    content = path.read_bytes()
    at = int(rng.integers(len(content)))
    how = rng.integers(3)
    if how == 0:
        path.write_bytes(content[:at])
    elif how == 1:
        noise = rng.bytes(8).translate(None, b"0123456789-+.eE")
        path.write_bytes(content[:at] + noise + content[at:])
    else:
        lines = content.splitlines(keepends=True)
        del lines[int(rng.integers(len(lines)))]
        path.write_bytes(b"".join(lines))


def negative(folder: Path, right: Frame) -> list[str]:
    """Return variants of the pool whose effect, on the allele that it was made of, is negative."""
    found = hs.open_results(folder / "pooled.zarr").to_frame()
    known = right.set_index(["contig", "position"])
    wrong = []
    for row in found[
        found["n_cohorts"] > 1
    ].itertuples():  # else there is nothing to hold it against
        where, names = (
            (row.contig, row.position),
            (row.effect_allele.upper(), row.other_allele.upper()),
        )
        made = (
            tuple(known.loc[where, ["effect_allele", "other_allele"]])
            if where in known.index
            else ()
        )
        strand = tuple(COMPLEMENT.get(name, name) for name in made)
        signs = {made[::-1]: -1, made: 1}
        if made != strand[::-1]:
            signs |= {strand[::-1]: -1, strand: 1}
        sign = signs.get(names)
        if sign is None or not sign * row.add > 0:
            wrong.append(f"{where} {names}: add {row.add}, {row.direction}")
    return wrong


def once(folder: Path, rng: Random, clean: list[Frame], right: Frame) -> str:
    """Spoil, pool, and say what came of it; raise where it is wrong."""
    tables = list(clean)
    for k in rng.choice(len(tables), rng.integers(1, 3), replace=False):
        for _ in range(rng.integers(1, 4)):
            try:
                tables[k] = SPOILERS[rng.integers(len(SPOILERS))](tables[k], rng)
            except (KeyError, ValueError, AttributeError):
                break  # spoilt already beyond that
    paths = [write(t, folder / f"c{k}.tsv") for k, t in enumerate(tables)]
    if rng.random() < 0.3:
        spoil_bytes(paths[rng.integers(len(paths))], rng)
    same_strand = bool(rng.random() < 0.3)
    try:
        hs.meta(paths, folder / "pooled.zarr", same_strand=same_strand)
    except HlmmScanError as error:
        if "\n" in str(error):
            raise AssertionError(f"an error of several lines: {error}") from None
        return "refused"
    wrong = negative(folder, right)
    if wrong:
        raise AssertionError("; ".join(wrong[:3]))
    return "pooled"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    count = 60 if given.quick else given.count
    logging.getLogger("hlmm_scan").setLevel(logging.ERROR)
    right = variants(80)
    clean = [cohort(right, seed=k, n=1000) for k in range(3)]
    told, failed = Counter[str](), 0
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                told[
                    once(Path(folder), np.random.default_rng([given.seed, number]), clean, right)
                ] += 1
            except Exception:
                failed += 1
                print(f"case {number} of seed {given.seed}:\n{traceback.format_exc()}")
    print(f"{count} sets of cohorts: {dict(told)}, {failed} wrong")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
