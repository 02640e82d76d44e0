"""How long a scan would take on machines that one does not have.

Every task is sent through a model of a cluster, one after another: a client that hands tasks out,
storage that all hosts read from, workers that compute. The tasks' times come from the plan, or from
what a store recorded of those it has done.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.results.records import Standing
from hlmm_scan.scan.plan import Plan

DISPATCH_SECONDS = 2e-3
"""Scheduler and client, for each task (scripts/engine measures both of these)."""

JOURNAL_SECONDS = 3e-4
"""One line of the journal on disk before the next."""

WRITE_SECONDS = 0.03
"""The chunks of one phenotype of a partition, beside what the plan counts."""

START_SECONDS = 3.0
"""From the start of a worker to its first fit: Python, the libraries, compiled kernels, Dask."""

STORAGE_BYTES_PER_SECOND = 1e9
"""What all hosts together read from storage."""

SPREAD = 0.2
"""Standard deviation of task times over their mean, where none were recorded."""

FEW_RECORDED = 20
"""Fewer recorded task times than this say less than the plan."""


@dataclass(frozen=True)
class Workload:
    """What there is to do.

    Attributes
    ----------
    tasks : int
    task_seconds : float
        Mean, on a core of its own.
    spread : float
        Standard deviation of the tasks' times over their mean.
    read_bytes : float
        Genotypes that one task reads.
    shared_bytes : float
        What every host reads once: the random effects and their eigenstructures.
    prepare_seconds : float, default 0
        Before the first worker starts: inputs, null models, the empty store.
    """

    tasks: int
    task_seconds: float
    spread: float
    read_bytes: float
    shared_bytes: float
    prepare_seconds: float = 0.0

    @classmethod
    def of(cls, plan: Plan, stands: Standing | None = None) -> Workload:
        """Return what a plan has to do, of its partitions those that are not done.

        Parameters
        ----------
        plan : Plan
        stands : Standing, optional
            Where the scan stands. The times of what is done, once these are a few, take the place
            of the plan's estimate, which is good to a factor of three.
        """
        load = cls(
            tasks=plan.n_partitions,
            task_seconds=plan.task_seconds + plan.together * WRITE_SECONDS,
            spread=SPREAD,
            read_bytes=min(plan.partition_variants, plan.n_variants) * max(plan.people) / 4,
            shared_bytes=plan.shared_bytes,
        )
        if stands is None:
            return load
        seconds = (stands.finished - stands.started)[stands.done]
        load = replace(load, tasks=load.tasks - len(seconds))
        if len(seconds) < FEW_RECORDED:
            return load
        mean = float(seconds.mean())
        return replace(load, task_seconds=mean, spread=float(seconds.std()) / mean)

    def durations(self) -> NDArray[np.float64]:
        """Return a time for each task: log-normal, the same at every call, and in sum exact."""
        variance = np.log1p(self.spread**2)
        rng = np.random.default_rng(0)
        drawn = rng.lognormal(0.0, np.sqrt(variance), self.tasks)
        return np.asarray(drawn * (self.task_seconds / drawn.mean())) if self.tasks else drawn


@dataclass(frozen=True)
class Cluster:
    """Where it is to be done.

    Attributes
    ----------
    workers : int
    cores : int, optional
        That the workers share. Default: one for each.
    workers_per_host : int, default 16
    storage_bytes_per_second : float
        Of all hosts together.
    start_seconds, dispatch_seconds, journal_seconds : float
        Start of a worker; work of the scheduler and the client for a task. Shards have neither
        scheduler nor client: 0.
    """

    workers: int
    cores: int | None = None
    workers_per_host: int = 16
    storage_bytes_per_second: float = STORAGE_BYTES_PER_SECOND
    start_seconds: float = START_SECONDS
    dispatch_seconds: float = DISPATCH_SECONDS
    journal_seconds: float = JOURNAL_SECONDS

    @property
    def slowdown(self) -> float:
        """Times that a task takes longer because workers share cores."""
        return max(1.0, self.workers / (self.cores or self.workers))

    @property
    def hosts(self) -> int:
        """Number of machines."""
        return -(-self.workers // self.workers_per_host)


@dataclass(frozen=True)
class Prediction:
    """What becomes of a workload on a cluster.

    Attributes
    ----------
    workers : int
    seconds : float
        From the command to its end.
    parts : mapping of str to float
        What a worker, in the mean, spends those seconds on, so that they add up: ``start-up``
        (prepare included), ``compute``, ``storage`` (reading, and waiting for those who read),
        ``scheduler`` (waiting to be given a task) and ``last tasks`` (waiting for the others to
        end).
    """

    workers: int
    seconds: float
    parts: Mapping[str, float]

    @property
    def bottleneck(self) -> str:
        """The part that workers spend most of their time on."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def core_hours(self) -> float:
        """One core for every worker, from beginning to end; times a price this is the cost."""
        return self.workers * self.seconds / 3600

    @property
    def efficiency(self) -> float:
        """Share of those core hours in which something is fitted."""
        return self.parts["compute"] / self.seconds if self.seconds else 1.0

    def summary(self) -> str:
        """Return the prediction in a few lines for a reader, in the form of the plan's."""
        parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in self.parts.items())
        workers = "1 worker" if self.workers == 1 else f"{self.workers:,} workers"
        return "\n".join(
            [
                f"estimated time     {_duration(self.seconds)} on {workers} (rough), mostly "
                f"{self.bottleneck}",
                f"of each worker's   {parts}",
                f"core hours         {self.core_hours:,.1f}",
            ]
        )


def predict(load: Workload, cluster: Cluster) -> Prediction:
    """Send every task through a model of a cluster.

    A task is handed out once the client is done with those before it, is taken by the worker that
    is free first, reads its genotypes once storage has served those before it, and computes. The
    client is at most ahead of the workers, which is what a window of tasks in flight is for.

    Parameters
    ----------
    load : Workload
    cluster : Cluster

    Returns
    -------
    Prediction
    """
    compute = load.durations() * cluster.slowdown
    read = load.read_bytes / cluster.storage_bytes_per_second
    client = cluster.dispatch_seconds + cluster.journal_seconds
    share = load.shared_bytes / cluster.storage_bytes_per_second
    ready = load.prepare_seconds + cluster.start_seconds
    free = [
        ready + share * (1 + worker // cluster.workers_per_host)
        for worker in range(cluster.workers)
    ]
    in_all = {"start-up": ready * cluster.workers, "compute": float(compute.sum())}
    in_all["storage"], in_all["scheduler"] = sum(free) - in_all["start-up"], 0.0
    handed_out, served = ready, free[-1] if share else ready
    for seconds in compute.tolist():
        handed_out += client
        begun = max(free[0], handed_out)
        served = max(begun, served) + read if read else begun
        in_all["scheduler"] += begun - free[0]
        in_all["storage"] += served - begun
        heapq.heapreplace(free, served + seconds)
    end = max(free)
    in_all["last tasks"] = sum(end - idle for idle in free)
    parts = {name: seconds / cluster.workers for name, seconds in in_all.items()}
    return Prediction(cluster.workers, end, parts)


def forecast(
    plan: Plan,
    workers: int,
    cores: int | None = None,
    stands: Standing | None = None,
    threads: int = 1,
) -> str:
    """Return the plan in words, and what becomes of it on some workers.

    Parameters
    ----------
    plan : Plan
    workers : int
        0 where that is not known: what is estimated then is the time of one.
    cores : int, optional
        That they share. Default: one for each.
    stands : Standing, optional
        As for :meth:`Workload.of`. A scan that stands has its null models.
    threads : int, default 1
        In which null models are fitted.
    """
    load, lines = Workload.of(plan, stands), [plan.summary(workers)]
    if plan.null_steps and stands is None:
        load = replace(load, prepare_seconds=plan.null_seconds / threads)
        lines.append(
            f"null models        {_duration(load.prepare_seconds)} (rough), in "
            f"{plan.null_steps:,} steps of random effects and chromosomes"
        )
    predicted = predict(load, Cluster(max(1, workers), cores))
    return "\n".join([*lines, predicted.summary()])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 or not seconds else "1 s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
