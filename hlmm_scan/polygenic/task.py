"""One task of a background: a block of level 0 or a trait of level 1, wherever it is done.

A block's task writes the predictors of every trait, a trait's task its predictions: chunks that no
other task writes. They are on the disk before the record is returned, so that a line of the journal
never speaks of what a power cut may take.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.in_use import Opened
from hlmm_scan.genotypes.joined import chosen_variants
from hlmm_scan.polygenic.blocks import read_codes
from hlmm_scan.polygenic.level0 import predictors
from hlmm_scan.polygenic.level1 import stack
from hlmm_scan.polygenic.people import People
from hlmm_scan.polygenic.plan import SHARES, Part, Plan
from hlmm_scan.storage import zarr_store
from hlmm_scan.storage.arrays import CheckedArray
from hlmm_scan.storage.checksums import CHUNK, Checks, every_chunk

PREDICTORS = "predictors.zarr"
INPUTS = "inputs"
Level = Literal["block", "trait"]


@dataclass(frozen=True)
class Task:
    """What a task needs to know; small to pickle.

    Attributes
    ----------
    level : {"block", "trait"}
    index : int
        Of the block or the trait.
    part : {"mean", "variance"}
        What is predicted.
    working : str
        The part's working folder.
    store : str
        The unfinished background.
    run_id : str
    """

    level: Level
    index: int
    part: Part
    working: str
    store: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.level} {self.index + 1} of the background, {self.part}"


@dataclass(frozen=True)
class Record:
    """What became of a task.

    Attributes
    ----------
    level : {"block", "trait"}
    index : int
    found : mapping
        Of a trait: n, cv_r2, heritability.
    chunks : dict of str to int
        Checksums of the chunks written to the background, by key.
    """

    level: Level
    index: int
    found: dict[str, Any] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return asdict(self)


class _Work:
    """What tasks of one background share in a process."""

    def __init__(self, working: Path) -> None:
        self.working = working
        self.plan = Plan.read(working / INPUTS)
        self.people = People.read(working / INPUTS)
        self.rows = np.load(working / INPUTS / "rows.npy")
        self.sex = np.load(working / INPUTS / "sex.npy")

    @cached_property
    def opened(self) -> Opened:
        """The genotypes."""
        return Opened(self.plan.genotypes, self.plan.fingerprint)

    def predictors(self, *, reading: bool) -> tuple[Any, CheckedArray]:
        """Return the store of predictors and its array (blocks, traits, shrinkages, people)."""
        path = self.working / PREDICTORS
        checks = Checks(path, "give the same command again", whole=every_chunk)
        files = zarr_store(path, read_only=reading, checks=checks if reading else None)
        group = zarr.open_group(files, mode="r" if reading else "r+", use_consolidated=False)
        array = group["predictors"]
        assert isinstance(array, zarr.Array)
        return files, CheckedArray(array)


@lru_cache(maxsize=1)
def _work(working: str, run_id: str) -> _Work:
    found = _Work(Path(working))
    if found.plan.run_id != run_id:
        raise InputError(f"{working}: another command works there")
    return found


def run_task(task: Task) -> Record:
    """Do a task.

    Raises
    ------
    InputError
        If the genotypes are not what they were, or something is damaged.
    OSError
        If something cannot be read or written.
    """
    work = _work(task.working, task.run_id)
    return _run_block(task, work) if task.level == "block" else _run_trait(task, work)


def _run_block(task: Task, work: _Work) -> Record:
    _, start, stop = work.plan.blocks[task.index]
    genotypes = chosen_variants(work.opened.genotypes, work.rows[start:stop])
    codes = read_codes(genotypes, work.people.samples, work.plan.haploid, work.sex)
    if not work.opened.still_there():
        del work.opened  # the same content in other chunks
        return _run_block(task, work)
    files, array = work.predictors(reading=False)
    for trait, found in predictors(codes, work.people, work.plan.penalties):
        array[task.index, trait] = found
    files.flush()
    return Record("block", task.index)


def _run_trait(task: Task, work: _Work) -> Record:
    people, plan, trait = work.people, work.plan, task.index
    group = people.group_of[trait]
    _, array = work.predictors(reading=True)
    stacked = np.empty((len(plan.blocks) * len(SHARES), len(group.rows)), np.int16)
    for block in range(len(plan.blocks)):
        at = block * len(SHARES)
        stacked[at : at + len(SHARES)] = array[block, trait][:, group.rows]
    found = stack(
        stacked,
        np.repeat([c for c, _, _ in plan.blocks], len(SHARES)),
        group.response(people, trait),
        group.edges(people),
        SHARES,
        len(plan.chromosomes),
    )
    made = {"prediction": found.prediction, "whole_genome_prediction": found.whole}
    if task.part == "variance":
        made = {"log_variance_prediction": found.prediction}
    files = zarr_store(Path(task.store))
    store = zarr.open_group(files, mode="r+", zarr_format=3, use_consolidated=False)
    for name, values in made.items():
        into = store[name]
        assert isinstance(into, zarr.Array)
        row = np.full((*values.shape[:-1], plan.n_samples), np.nan, np.float32)
        row[..., people.samples[group.rows]] = values * people.units[trait]
        CheckedArray(into)[trait] = row
    files.flush()
    return Record(
        "trait",
        trait,
        {"n": len(group.rows), "cv_r2": found.cv_r2, "heritability": found.heritability},
        {key: checksum for key, checksum in files.written.items() if CHUNK in key},
    )
