"""Predictions as regenie's step 1 writes them, for its step 2 and whoever else reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hlmm_scan.cohort.backgrounds import StoredBackground
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.chromosomes import X
from hlmm_scan.staging import staged_folder, stands

LIST = "background_pred.list"


def export_loco(background: StoredBackground, folder: Path, phenotypes: Sequence[str] = ()) -> int:
    """Write a .loco file for each phenotype, and the list of them.

    Parameters
    ----------
    background : StoredBackground
    folder : Path
        To be made; it holds ``background_pred.list``, ``background_1.loco`` and so on.
    phenotypes : sequence of str, optional
        Default: all.

    Returns
    -------
    int
        Rows written: phenotypes times chromosomes.

    Raises
    ------
    InputError
        If there is no such phenotype, a name that regenie could not read, or something at the
        folder's place.

    Notes
    -----
    regenie's predictions are of residuals over their standard deviation, in a line for each
    chromosome, of which the number after the last autosome's stands for X.
    """
    if stands(folder):
        raise InputError(f"{folder}: something stands there already; choose another --output")
    chosen = tuple(phenotypes) or tuple(background.phenotypes)
    for name in chosen:
        background.index(name)
        if len(name.split()) != 1:
            raise InputError(f"phenotype '{name}': regenie's list takes no names with blanks")
    autosomes = int(background.attributes["autosomes"])
    names = [str(autosomes + 1) if c == X else c for c in background.chromosomes]
    deviations = background.array("residual_sd")[:]
    listed = []
    with staged_folder(folder) as scratch:
        for number, name in enumerate(chosen, start=1):
            scaled = background.predictions(name) / deviations[background.index(name)]
            file = f"background_{number}.loco"
            with (scratch / file).open("w", encoding="utf-8") as stream:
                stream.write(f"FID_IID {' '.join(_people(background))}\n")
                for contig, row in zip(names, scaled, strict=True):
                    cells = ("NA" if np.isnan(value) else f"{value:.9g}" for value in row)
                    stream.write(f"{contig} {' '.join(cells)}\n")
            listed.append(f"{name} {folder.absolute() / file}\n")
        (scratch / LIST).write_text("".join(listed), encoding="utf-8")
    return len(chosen) * len(names)


def _people(background: StoredBackground) -> Iterator[str]:
    """Yield people as FID_IID; the IID is the FID where there is none."""
    samples = background.samples
    family = samples.individual_id if samples.family_id is None else samples.family_id
    return (f"{fid}_{iid}" for fid, iid in zip(family, samples.individual_id, strict=True))
