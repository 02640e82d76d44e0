"""Who takes part, in the order in which people are summed, with traits and covariates as columns.

People stand fold by fold. Traits of the same people and the same covariates are a group, which
shares sums and factorisations: they would be the same for each alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.transform import residuals
from hlmm_scan.errors import InputError
from hlmm_scan.polygenic.whole import CODE_BITS, PREDICTOR_BITS, bits_left, whole


@dataclass(frozen=True, eq=False)
class Group:
    """Traits of the same people and the same covariates.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_g,)
        Their places among all people, ascending.
    traits : tuple of int
        Numbers of the traits.
    start : int
        First of their columns: those of the covariates, then the traits.
    n_covariates : int
        With the intercept.
    """

    rows: NDArray[np.int64]
    traits: tuple[int, ...]
    start: int
    n_covariates: int

    @property
    def covariates(self) -> slice:
        """Columns of the covariates."""
        return slice(self.start, self.start + self.n_covariates)

    @property
    def responses(self) -> slice:
        """Columns of the traits."""
        first = self.start + self.n_covariates
        return slice(first, first + len(self.traits))

    def edges(self, people: People) -> list[tuple[int, int]]:
        """Return where each fold begins and ends among these people."""
        at = np.searchsorted(self.rows, [a for a, _ in people.edges] + [people.edges[-1][1]])
        return list(zip(at[:-1].tolist(), at[1:].tolist(), strict=True))

    def covariate_columns(self, people: People) -> Float:
        """Return the covariates of these people, shape (n_g, c)."""
        return np.ascontiguousarray(people.columns[self.rows, self.covariates])

    def response(self, people: People, trait: int) -> Float:
        """Return one trait of these people, shape (n_g,)."""
        column = self.responses.start + self.traits.index(trait)
        return np.ascontiguousarray(people.columns[self.rows, column])

    def covariate_sums(self, people: People) -> tuple[Float, Float]:
        """Return ZᵀZ and Zᵀy of each fold, shapes (K, c, c) and (traits, K, c)."""
        z, edges = self.covariate_columns(people), self.edges(people)
        zz = np.stack([z[a:b].T @ z[a:b] for a, b in edges])
        zy = []
        for trait in self.traits:  # one by one: many together would round by how many they are
            y = self.response(people, trait)
            zy.append(np.stack([z[a:b].T @ y[a:b] for a, b in edges]))
        return zz, np.stack(zy)


@dataclass(frozen=True, eq=False)
class People:
    """Everybody of whom a trait is known, fold by fold, and the columns of all groups.

    Attributes
    ----------
    samples : ndarray of int64, shape (n,)
        Rows of the genotypes.
    edges : tuple of (int, int)
        Where each of the K folds begins and ends.
    groups : tuple of Group
    columns : ndarray of float64, shape (n, q)
        Whole numbers; 0 for people who are not of a group.
    units : ndarray of float64, shape (traits,)
        What 1 in a trait's column is, in units of the phenotype.
    """

    samples: NDArray[np.int64]
    edges: tuple[tuple[int, int], ...]
    groups: tuple[Group, ...]
    columns: Float
    units: Float

    @cached_property
    def group_of(self) -> dict[int, Group]:
        """The group of each trait."""
        return {trait: group for group in self.groups for trait in group.traits}

    @classmethod
    def of(cls, cohorts: Sequence[Cohort], folds: NDArray[np.int8]) -> People:
        """Put cohorts together.

        Parameters
        ----------
        cohorts : sequence of Cohort
            One a trait, at least one.
        folds : ndarray of int8, shape (n_samples,)
            Of all people of the genotypes.
        """
        everybody = np.unique(np.concatenate([cohort.samples for cohort in cohorts]))
        samples = everybody[np.argsort(folds[everybody], kind="stable")]
        n_folds = int(folds.max(initial=0)) + 1
        at = np.searchsorted(folds[samples], np.arange(n_folds + 1))
        edges = tuple(zip(at[:-1].tolist(), at[1:].tolist(), strict=True))
        place = np.full(len(folds), -1, np.int64)
        place[samples] = np.arange(len(samples))
        alike: dict[bytes, list[int]] = {}
        for number, cohort in enumerate(cohorts):
            alike.setdefault(_digest(cohort), []).append(number)
        width = sum(
            len(cohorts[those[0]].mean_design.names) + len(those) for those in alike.values()
        )
        columns = np.zeros((len(samples), width))
        units = np.zeros(len(cohorts))
        groups, start = [], 0
        for those in alike.values():
            design = cohorts[those[0]].mean_design.matrix
            order = np.argsort(place[cohorts[those[0]].samples])
            rows = place[cohorts[those[0]].samples][order]
            group = Group(rows, tuple(those), start, design.shape[1])
            columns[rows, group.covariates], _ = whole(
                design[order], bits_left(CODE_BITS, len(rows))
            )
            for k, number in enumerate(those):
                y, units[number] = _response(cohorts[number])
                columns[rows, group.responses.start + k] = y[order]
            groups.append(group)
            start = group.responses.stop
        return cls(samples, edges, tuple(groups), columns, units)

    def write(self, folder: Path) -> None:
        """Write them where tasks read them."""
        np.save(folder / "samples.npy", self.samples)
        np.save(folder / "columns.npy", self.columns)
        np.save(folder / "units.npy", self.units)
        told = []
        for number, group in enumerate(self.groups):
            np.save(folder / f"rows-{number}.npy", group.rows)
            told.append({k: v for k, v in asdict(group).items() if k != "rows"})
        text = json.dumps({"edges": self.edges, "groups": told})
        (folder / "people.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> People:
        """Read what :meth:`write` wrote; columns are mapped, so workers of a host share them."""
        told = json.loads((folder / "people.json").read_text(encoding="utf-8"))
        groups = tuple(
            Group(
                np.load(folder / f"rows-{number}.npy"),
                tuple(one["traits"]),
                one["start"],
                one["n_covariates"],
            )
            for number, one in enumerate(told["groups"])
        )
        return cls(
            np.load(folder / "samples.npy"),
            tuple((a, b) for a, b in told["edges"]),
            groups,
            np.load(folder / "columns.npy", mmap_mode="r"),
            np.load(folder / "units.npy"),
        )


def check_folds(cohort: Cohort, folds: NDArray[np.int8]) -> None:
    """See that what is left without any fold can be fitted.

    Raises
    ------
    InputError
    """
    n, parameters = len(cohort), cohort.mean_design.matrix.shape[1]
    largest = int(np.bincount(folds[cohort.samples]).max())
    if n - largest <= parameters:
        raise InputError(
            f"too few people for cross-validation: of {n:,} people analysed for "
            f"{cohort.phenotype} {n - largest:,} are outside the largest fold, with {parameters:,} "
            "parameters of the mean"
        )


def _digest(cohort: Cohort) -> bytes:
    """Return what people and covariates are known by."""
    found = hashlib.sha256(cohort.samples.tobytes())
    found.update(np.ascontiguousarray(cohort.mean_design.matrix).tobytes())
    found.update(str(cohort.mean_design.matrix.shape).encode())
    return found.digest()


def _response(cohort: Cohort) -> tuple[Float, float]:
    """Return a trait's residuals on its covariates as whole numbers, and their unit."""
    rest = residuals(cohort.y, cohort.mean_design.matrix)
    rounded, exponent = whole(rest[:, None], bits_left(PREDICTOR_BITS, len(rest)))
    return rounded[:, 0], float(np.ldexp(_deviation(cohort.y), int(exponent[0])))


def _deviation(y: Float) -> float:
    """Return the standard deviation that :func:`residuals` divides by."""
    from hlmm_scan.cohort.design import centre_and_scale

    return float(centre_and_scale(y[:, None])[1][0])
