"""How far a background is, from what lies at its place or beside it."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hlmm_scan.cohort.backgrounds import StoredBackground, is_background
from hlmm_scan.polygenic.plan import Plan
from hlmm_scan.polygenic.run import JOURNAL, WORKING
from hlmm_scan.polygenic.task import INPUTS
from hlmm_scan.staging import stands, unfinished_folders
from hlmm_scan.storage import Place
from hlmm_scan.storage.journal import Journal


@dataclass(frozen=True)
class State:
    """How far a background is.

    Attributes
    ----------
    path : str
    complete : bool
    running : bool
        Whether a process is at it.
    blocks, blocks_done, traits, traits_done : int
        Twice as many where the log-variance is predicted too.
    """

    path: str
    complete: bool
    running: bool
    blocks: int
    blocks_done: int
    traits: int
    traits_done: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"complete": self.complete, "background": asdict(self)}

    def __str__(self) -> str:
        done = (
            f"{self.blocks_done:,} of {self.blocks:,} blocks and {self.traits_done:,} of "
            f"{self.traits:,} traits done"
        )
        if self.complete:
            return f"{self.path}: complete, {done}"
        if self.running:
            return f"{self.path}: being made, {done}"
        return f"{self.path}: cut off, {done}; give the same command again to go on with it"


def background_state(path: Place) -> State | None:
    """Return how far a background is; None where there is neither a whole one nor a part.

    Parameters
    ----------
    path : Path or ObjectPath
    """
    if is_background(path):
        stored = StoredBackground(path)
        parts = 1 + stored.of_variance
        blocks, traits = parts * int(stored.attributes["blocks"]), parts * len(stored.phenotypes)
        return State(str(path), True, False, blocks, blocks, traits, traits)
    if not isinstance(path, Path) or stands(path):
        return None
    for folder, running in unfinished_folders(path):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            plan = Plan.read(folder / WORKING / "mean" / INPUTS)
            journals = (folder / WORKING / part / JOURNAL for part in plan.parts)
            done = [r["level"] for one in journals for r in Journal(one).records()]
            parts = len(plan.parts)
            return State(
                str(path),
                False,
                running,
                parts * len(plan.blocks),
                done.count("block"),
                parts * len(plan.phenotypes),
                done.count("trait"),
            )
    return None
