"""Comparing result stores, and executors that run tasks as no real one would."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import zarr

from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.scan.task import PartitionTask, run_partition
from hlmm_scan.storage import Place, zarr_store


def contents(store: Place) -> dict[str, Any]:
    """Every array in the root and below null/, and the attributes of null/, as bytes and JSON."""
    found: dict[str, Any] = {}

    def take(group: zarr.Group, prefix: str) -> None:
        for name, member in group.members():
            if isinstance(member, zarr.Array):
                values = np.asarray(member[...])
                data = values.tolist() if values.dtype.kind in "OT" else values.tobytes()
                found[prefix + name] = (str(values.dtype), values.shape, data)
            elif prefix + name != "run":
                found[prefix + name] = member.attrs.asdict()
                take(member, f"{prefix}{name}/")

    take(zarr.open_group(zarr_store(store, read_only=True), mode="r", use_consolidated=False), "")
    return found


def assert_identical(store: Place, reference: Place) -> None:
    """Assert that two stores are identical as the interface defines it: bit for bit."""
    here, there = contents(store), contents(reference)
    assert here.keys() == there.keys()
    assert "status" in here
    different = [name for name in here if here[name] != there[name]]
    assert different == []


class ShuffledExecutor:
    """Runs tasks in this process in an order of its own, and may stop as if the process had."""

    def __init__(self, seed: int, stop_after: int | None = None) -> None:
        self.random = random.Random(seed)
        self.stop_after = stop_after
        self.ran: list[int] = []

    def run(self, tasks: Iterable[PartitionTask]) -> Iterator[PartitionRecord]:
        drawn = list(tasks)
        self.random.shuffle(drawn)
        for task in drawn:
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(task.partition.index)
            yield run_partition(task)
