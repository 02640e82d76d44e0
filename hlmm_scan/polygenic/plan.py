"""What a background is made of, as data: written once, read by every task."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.genotypes.ploidy import HaploidRegions
from hlmm_scan.storage.durable import sync_tree

DEFAULT_BLOCK_SIZE = 1000
DEFAULT_FOLDS = 5

SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Choices of heritability h at both levels; the penalty is (variables) · (1 − h)/h."""

Part = Literal["mean", "variance"]

_FILE = "plan.json"


@dataclass(frozen=True)
class Plan:
    """A background to be made.

    Attributes
    ----------
    run_id : str
        Of the process that wrote the plan: workers know by it what they keep.
    genotypes : tuple of str
        Paths of the datasets.
    fingerprint : str
        Theirs.
    n_samples : int
    phenotypes : tuple of str
    residual_sd : tuple of float
        Of each phenotype about its mean covariates.
    chromosomes : tuple of str
        That are left out.
    blocks : tuple of (int, int, int)
        Number of the chromosome in `chromosomes`, and where the rows of each block begin and end in
        `rows.npy`.
    regions : (int, str or None) or None
        Autosomes and genome build, where somebody is haploid.
    variance : bool
        Whether the log-variance is predicted as well.
    """

    run_id: str
    genotypes: tuple[str, ...]
    fingerprint: str
    n_samples: int
    phenotypes: tuple[str, ...]
    residual_sd: tuple[float, ...]
    chromosomes: tuple[str, ...]
    blocks: tuple[tuple[int, int, int], ...]
    regions: tuple[int, str | None] | None
    variance: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is predicted, one after the other."""
        return ("mean", "variance") if self.variance else ("mean",)

    @property
    def penalties(self) -> tuple[float, ...]:
        """λ of level 0."""
        n_variants = self.blocks[-1][2]
        return tuple(n_variants * (1 - share) / share for share in SHARES)

    @property
    def haploid(self) -> HaploidRegions | None:
        """Where people are haploid."""
        return None if self.regions is None else HaploidRegions(*self.regions)

    def write(self, folder: Path, rows: NDArray[np.int64], sex: NDArray[np.int8]) -> None:
        """Write the plan where tasks read it, with rows of all blocks and everybody's sex."""
        np.save(folder / "rows.npy", rows)
        np.save(folder / "sex.npy", sex)
        (folder / _FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")
        sync_tree(folder)

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read what :meth:`write` wrote."""
        told: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        for name in ("genotypes", "phenotypes", "residual_sd", "chromosomes"):
            told[name] = tuple(told[name])
        told["blocks"] = tuple((c, a, b) for c, a, b in told["blocks"])
        told["regions"] = None if told["regions"] is None else tuple(told["regions"])
        return cls(**told)
