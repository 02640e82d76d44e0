"""PLINK filesets read, changed and written without any code of the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

_COPIES = np.array([2.0, np.nan, 1.0, 0.0])


@dataclass
class Fileset:
    """Copies of A1, (variants, people), NaN where missing; and the cells of .bim and .fam."""

    copies: np.ndarray
    bim: pd.DataFrame
    fam: pd.DataFrame

    def part(self, variants=None, people=None) -> Fileset:
        """Some variants and people, in the order given."""
        variants = np.arange(len(self.bim)) if variants is None else np.asarray(variants)
        people = np.arange(len(self.fam)) if people is None else np.asarray(people)
        copies = self.copies[np.ix_(variants, people)]
        return Fileset(copies, self.bim.iloc[variants], self.fam.iloc[people])

    def write(self, prefix: Path) -> Path:
        """Write the three files and return the .bed."""
        codes = np.select([self.copies == 2, np.isnan(self.copies), self.copies == 1], [0, 1, 2], 3)
        padded = np.zeros((len(codes), -(-codes.shape[1] // 4) * 4), np.uint8)
        padded[:, : codes.shape[1]] = codes
        packed = (padded.reshape(len(codes), -1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(2)
        bed = Path(f"{prefix}.bed")
        bed.write_bytes(b"\x6c\x1b\x01" + packed.astype(np.uint8).tobytes())
        for frame, extension in ((self.bim, "bim"), (self.fam, "fam")):
            frame.to_csv(f"{prefix}.{extension}", sep="\t", header=False, index=False)
        return bed


def read(prefix: Path) -> Fileset:
    """Read a fileset."""
    bim, fam = (
        pd.read_csv(f"{prefix}.{extension}", sep=r"\s+", header=None, dtype=str, na_filter=False)
        for extension in ("bim", "fam")
    )
    packed = np.frombuffer(Path(f"{prefix}.bed").read_bytes()[3:], np.uint8).reshape(len(bim), -1)
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    return Fileset(_COPIES[codes.reshape(len(bim), -1)[:, : len(fam)]], bim, fam)


def standardised(copies: np.ndarray) -> np.ndarray:
    """Columns that vary, (people, variants): mean-imputed, mean 0 and variance 1."""
    mean = np.nanmean(copies, axis=1, keepdims=True)
    centred = np.where(np.isnan(copies), 0.0, copies - mean)
    deviation = np.sqrt((centred**2).mean(axis=1))
    varies = deviation > 0
    return (centred[varies] / deviation[varies, None]).T
