"""The plan: what is to be computed, cut into partitions, as data that can be printed and stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.errors import InputError
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.kernels.cost import task_bytes, task_seconds
from hlmm_scan.kernels.paths import path_of
from hlmm_scan.shown import listed_names

TARGET_SECONDS = 2.0
"""Work of one task: long against Dask's milliseconds of overhead, short against a preemption.
Tasks of several phenotypes may take some times as long, so that chunks of results stay as large."""

MOST_TIMES_TARGET = 4

MOST_TOGETHER = 8
"""Phenotypes of one partition, where genotypes take longer to read than to fit: what is left to
gain beyond is a tenth, and each phenotype takes up memory."""

PROCESS_BYTES = 180 << 20
"""What is its own of a worker before its first task: Python, numpy, scipy, numba with the kernels,
Zarr, Dask. Another 100 MiB of their files are mapped, once a host."""

LEAST_PARTITIONS = 16
"""Partitions a scan is cut into if it has the chunks, so that a short one still uses the cores."""

MAX_TASK_BYTES = 512 << 20
"""Memory one task may plan for. Where a genotype chunk alone takes it, results may take an eighth
of it more: partitions of single chunks would be tasks of milliseconds."""

VARIANT_BYTES = 1200
"""What a task keeps of a variant until its partition is written: results of its chunk, those of
the partition, its row of the variant table."""

USUAL_TEXT = 64
"""Characters of a variant's id and alleles that `VARIANT_BYTES` counts."""

TEXT_COPIES = 3
"""Of longer ones, while a chunk of them is decoded: bytes, strings of numpy, strings of Python."""

BLOCKS_IN_A_ROW = 64
"""Partitions of one phenotype done one after the other, if there are as many. Its null model, with
many covariates larger than a partition's genotypes, is read once for them, while the genotypes are
still in the page cache when the next phenotype's turn comes."""


@dataclass(frozen=True)
class Partition:
    """One unit of work: consecutive variants of one phenotype or some, read once for all of them.

    Attributes
    ----------
    index : int
    phenotypes : range
        Positions among the plan's phenotypes.
    start, stop : int
        Variants: one chunk of every result array, for each phenotype.
    """

    index: int
    phenotypes: range
    start: int
    stop: int

    @property
    def n_tests(self) -> int:
        """Number of variants × phenotypes."""
        return (self.stop - self.start) * len(self.phenotypes)


@dataclass(frozen=True)
class Shard:
    """One of a number of slices of a plan.

    Attributes
    ----------
    index : int
        From 0.
    count : int
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"

    def partitions(self, n_partitions: int) -> range:
        """Return the partitions of this shard, of a plan of that many.

        Consecutive, so that a shard reads genotypes that no other reads, and random effects of few
        chromosomes; as many as any other shard, or one less. They depend on nothing else, above
        all not on what is done: all shards, whenever they start, cut the plan alike.
        """
        first, last = (n_partitions * k // self.count for k in (self.index, self.index + 1))
        return range(first, last)


@dataclass(frozen=True)
class Plan:
    """A whole scan.

    Attributes
    ----------
    phenotypes : tuple of str
    people : tuple of int
        People analysed, per phenotype.
    n_variants, partition_variants : int
    genotypes : tuple of str
        Absolute paths of the genotype datasets the plan was made with; they may move.
    parameters : mapping
        Everything the numbers depend on: options, input fingerprints, software version. A resume
        must agree in all of them.
    task_bytes : int
        Upper estimate of one task's memory, beside what it shares.
    shared_bytes : int
        Upper estimate of the memory that all tasks of a host share.
    task_seconds : float
        Rough estimate of one task's time on one core.
    model : ModelSize
        Largest over phenotypes.
    on_x : ModelSize, optional
        The same on chromosome X, where sex makes it larger.
    together : int, default 1
        Phenotypes of one partition; the last of them may have fewer.
    null_steps : int, default 0
        Steps in which null models with random effects are fitted; 0 where there are none.
    null_seconds : float, default 0
        Rough estimate of their time on one core.
    left_out : mapping of str to str
        Phenotypes that were asked for and cannot be analysed, with the reason.
    """

    phenotypes: tuple[str, ...]
    people: tuple[int, ...]
    n_variants: int
    partition_variants: int
    genotypes: tuple[str, ...]
    parameters: Mapping[str, Any]
    task_bytes: int
    shared_bytes: int
    task_seconds: float
    model: ModelSize
    on_x: ModelSize | None = None
    together: int = 1
    null_steps: int = 0
    null_seconds: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> tuple[ModelSize, ...]:
        """All kinds of models there are."""
        return (self.model,) if self.on_x is None else (self.model, self.on_x)

    @classmethod
    def of(
        cls,
        *,
        phenotypes: tuple[str, ...],
        people: tuple[int, ...],
        n_variants: int,
        partition_variants: int,
        genotypes: tuple[str, ...],
        parameters: Mapping[str, Any],
        chunk_variants: int,
        model: ModelSize,
        n_genotyped: int,
        held_bytes: int = 0,
        on_x: ModelSize | None = None,
        together: int = 1,
        left_out: Mapping[str, str] | None = None,
    ) -> Plan:
        """Return a plan with its estimates of memory and time worked out.

        Parameters
        ----------
        chunk_variants : int
            Variants per genotype chunk: a task holds one chunk at a time.
        n_genotyped : int
            People in the genotype dataset. The others are attributes.
        held_bytes : int, default 0
            What a reader of the genotypes keeps between its reads.
        """
        partition, chunk = (min(size, n_variants) for size in (partition_variants, chunk_variants))
        return cls(
            phenotypes,
            people,
            n_variants,
            partition_variants,
            genotypes,
            parameters,
            task_bytes=PROCESS_BYTES
            + max(task_bytes(m, chunk, n_genotyped, together) for m in (model, on_x or model))
            + VARIANT_BYTES * partition * together
            + held_bytes,
            shared_bytes=model.shared_bytes,
            task_seconds=task_seconds(model, partition, together),
            model=model,
            on_x=on_x,
            together=together,
            left_out=dict(left_out or {}),
        )

    def with_text(self, longest: int) -> Plan:
        """Return the plan for variants whose ids and alleles are long.

        Parameters
        ----------
        longest : int
            Characters beyond the usual few, of variants that are read together.
        """
        return replace(self, task_bytes=self.task_bytes + TEXT_COPIES * longest)

    @property
    def n_partitions(self) -> int:
        """Number of partitions."""
        return self.n_blocks * self.n_groups

    @property
    def n_groups(self) -> int:
        """Number of groups of phenotypes that are done together."""
        return -(-len(self.phenotypes) // self.together)

    @property
    def n_blocks(self) -> int:
        """Number of variant ranges."""
        return -(-self.n_variants // self.partition_variants)

    @property
    def n_tests(self) -> int:
        """Number of variants × phenotypes."""
        return self.n_variants * len(self.phenotypes)

    def tests_before(self, index: int) -> int:
        """Return the number of tests in all partitions before one, or before the end."""
        block, group = divmod(index, self.n_groups)
        variants = block * self.partition_variants
        before = min(variants, self.n_variants) * len(self.phenotypes)
        size = max(0, min(self.partition_variants, self.n_variants - variants))
        return before + size * min(group * self.together, len(self.phenotypes))

    def tests_by_partition(self) -> NDArray[np.int64]:
        """Return the number of tests of every partition, shape (n_partitions,)."""
        variants = np.full(self.n_blocks, self.partition_variants)
        variants[-1] -= self.n_blocks * self.partition_variants - self.n_variants
        phenotypes = np.full(self.n_groups, self.together)
        phenotypes[-1] -= self.n_groups * self.together - len(self.phenotypes)
        return np.asarray(np.outer(variants, phenotypes).ravel(), dtype=np.int64)

    def partition(self, index: int) -> Partition:
        """Return one partition. Phenotypes run fastest: neighbours read the same genotypes."""
        if not 0 <= index < self.n_partitions:
            raise IndexError(index)
        block, group = divmod(index, self.n_groups)
        first, start = group * self.together, block * self.partition_variants
        return Partition(
            index,
            range(first, min(first + self.together, len(self.phenotypes))),
            start,
            min(start + self.partition_variants, self.n_variants),
        )

    def in_working_order(self, indices: Sequence[int] | NDArray[np.intp]) -> NDArray[np.intp]:
        """Return some partitions in the order in which they are best done.

        Parameters
        ----------
        indices : sequence of int, length k

        Returns
        -------
        ndarray of int, shape (k,)
            Phenotype after phenotype, :data:`BLOCKS_IN_A_ROW` variant ranges at a time.
        """
        given = np.asarray(indices, dtype=np.intp)
        blocks, groups = np.divmod(given, self.n_groups)
        return given[np.lexsort((blocks, groups, blocks // BLOCKS_IN_A_ROW))]

    def partitions(self) -> Iterator[Partition]:
        """Yield all partitions, made one at a time."""
        return (self.partition(index) for index in range(self.n_partitions))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        mappings = {"parameters": dict(self.parameters), "left_out": dict(self.left_out)}
        return {**asdict(self), **mappings}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Plan:
        """Return the plan that :meth:`to_json` gave."""
        lists = {name: tuple(stored[name]) for name in ("phenotypes", "people")}
        paths = stored["genotypes"]
        lists["genotypes"] = (paths,) if isinstance(paths, str) else tuple(paths)
        models = {k: stored.get(k) and ModelSize(**stored[k]) for k in ("model", "on_x")}
        return cls(**{**stored, **lists, **models})

    def summary(self, workers: int) -> str:
        """Return the plan in a few lines for a reader; of 0 workers, where that is not known."""
        people = listed_names(
            [f"{name} {n:,}" for name, n in zip(self.phenotypes, self.people, strict=True)]
        )
        return "\n".join(
            [
                f"tests              {self.n_tests:,} ({self.n_variants:,} variants × "
                f"{len(self.phenotypes)} phenotypes)",
                f"people             {people}",
                *(f"left out           {name}: {why}" for name, why in self.left_out.items()),
                f"partitions         {self.n_partitions:,} of {self.partition_variants:,} "
                f"variants × {self.together} phenotype{'s' * (self.together > 1)}",
                f"memory per task    {self.task_bytes / 2**20:,.0f} MiB",
                f"shared memory      {self.shared_bytes / 2**20:,.0f} MiB",
                f"workers            {workers or 'as many as the scheduler has'}",
            ]
        )


def differing(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return ``key: stored …, now …`` for every parameter that differs."""
    return [
        f"{key}: stored {_show(stored.get(key))}, now {_show(wanted.get(key))}"
        for key in sorted({*stored, *wanted})
        if stored.get(key) != wanted.get(key)
    ]


def phenotypes_together(
    *, chunk_variants: int, n_variants: int, n_phenotypes: int, model: ModelSize
) -> int:
    """Choose the number of phenotypes of a partition: some where reading is most of the work.

    Parameters
    ----------
    chunk_variants : int
        Variants per genotype chunk.
    n_variants, n_phenotypes : int
    model : ModelSize

    Returns
    -------
    int
        Groups are of nearly one size, and leave enough partitions.
    """
    if not path_of(model).together:
        return 1
    in_all = -(-n_variants // chunk_variants) * n_phenotypes
    most = max(1, min(MOST_TOGETHER, in_all // LEAST_PARTITIONS))
    groups = -(-n_phenotypes // most)
    return -(-n_phenotypes // groups)


def partition_size(
    *,
    chunk_variants: int,
    n_variants: int,
    n_phenotypes: int,
    model: ModelSize,
    n_genotyped: int,
    wanted: int | None = None,
    together: int = 1,
) -> int:
    """Choose the number of variants of a partition: whole genotype chunks, a few seconds of work.

    Parameters
    ----------
    chunk_variants : int
        Variants per genotype chunk.
    n_variants, n_phenotypes : int
    model : ModelSize
    n_genotyped : int
        As for :meth:`Plan.of`.
    wanted : int, optional
        What the user asked for.
    together : int, default 1
        Phenotypes of a partition.

    Raises
    ------
    InputError
        If `wanted` is not a whole number of genotype chunks.
    """
    if wanted is not None:
        if wanted < 1 or wanted % chunk_variants:
            raise InputError(
                f"partition_variants {wanted} is not a multiple of the genotype dataset's chunk "
                f"of {chunk_variants} variants"
            )
        return wanted
    target = TARGET_SECONDS * min(together, MOST_TIMES_TARGET)
    chunks = max(1, int(target / task_seconds(model, chunk_variants, together)))
    fixed = task_bytes(model, chunk_variants, n_genotyped, together)
    room = max(MAX_TASK_BYTES - fixed, MAX_TASK_BYTES // 8)
    in_all = -(-n_variants // chunk_variants)
    most = min(
        room // (chunk_variants * VARIANT_BYTES * together),
        in_all * -(-n_phenotypes // together) // LEAST_PARTITIONS,
        in_all,
    )
    return max(1, min(chunks, most)) * chunk_variants


def _show(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    # Two fingerprints differ in their first digits as well as in their last.
    return text if len(text) <= 40 else f"{text[:12]}…"
