"""Random damage to stores, and power cuts: what commands make of them.

Corruptions. One file of a store is damaged: one bit flipped, cut short, deleted, or swapped with
another chunk. Then one of the functions behind the commands reads the store. It must give what it
gives of the whole store, or raise an error of ours. Everything else is a finding.

Power cuts. A conversion or a scan runs in a process of its own that notes the order of its writes,
renames and fsyncs and ends at a random one of them. Of what was not synced some is lost, at random:
files are emptied or cut short, names are gone. The same command again must give what an undisturbed
one gives, and no partition that the ledger has as done may be damaged.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from power import cut_power
from tables import table, write

from hlmm_scan.analysis.calibration import calibration
from hlmm_scan.analysis.dispersion import write_dispersion
from hlmm_scan.analysis.hits import hits
from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import HlmmScanError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.null import host_cache
from hlmm_scan.report.page import write_report
from hlmm_scan.results.export import Export, export
from hlmm_scan.results.inputs import scanned_genotypes, stored_null_model
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.state import scan_state
from hlmm_scan.scan.wholeness import verify_store
from hlmm_scan.scan.worker import forget_inputs
from hlmm_scan.simulate import simulate_cohort
from hlmm_scan.storage import ObjectPath, Place, place

KINDS = ("bit", "bit", "bit", "cut short", "deleted", "swapped")
RIGHT, ERROR, WRONG, TRACEBACK = "right", "one line", "SILENTLY WRONG", "TRACEBACK"


# What is damaged ----------------------------------------------------------------------------


@dataclass
class World:
    """Genotypes, a complete scan of them, one half done and one only prepared."""

    folder: Path
    base: Place
    config: ScanConfig
    genotypes: Place
    complete: Place
    partial: Place
    prepared: Place
    right: dict[str, Any] = field(default_factory=dict)


class Halfway(SerialExecutor):
    """Stops after some partitions, as an interrupt does."""

    def run(self, tasks: Any) -> Any:
        for number, record in enumerate(super().run(tasks)):
            yield record
            if number == 4:
                raise KeyboardInterrupt


def make_world(folder: Path, base: Place) -> World:
    """Make all of it, small: chunks of ten variants, two chromosomes, two traits."""
    folder.mkdir(parents=True)
    cohort = simulate_cohort(
        folder / "cohort",
        n_samples=90,
        chromosomes=2,
        variants_per_chromosome=30,
        n_random_effects=12,
        seed=5,
        overwrite=True,
    )
    traits = pd.read_csv(cohort.phenotypes, sep=r"\s+")
    traits["second"] = np.random.default_rng(3).normal(size=len(traits)) + traits.iloc[:, -1]
    traits.to_csv(folder / "traits.tsv", sep="\t", index=False)
    genotypes = base / "genotypes.zarr"
    convert(cohort.beds, genotypes, chunk_variants=10, workers=0)
    config = ScanConfig(
        genotypes=(genotypes,),
        phenotypes=folder / "traits.tsv",
        mean_covariates=cohort.covariates,
        random_effects=cohort.random_effects,
        output=base / "complete.zarr",
        workers=1,
        partition_variants=10,
    )
    run.scan(config, executor=SerialExecutor())
    write_dispersion(ResultStore.open(base / "complete.zarr"), "invariant", [])
    with contextlib.suppress(KeyboardInterrupt):
        run.scan(replace(config, output=base / "partial.zarr"), executor=Halfway())
    run.prepare(replace(config, output=base / "prepared.zarr"))
    world = World(
        folder,
        base,
        config,
        genotypes,
        *(base / f"{name}.zarr" for name in ("complete", "partial", "prepared")),
    )
    for name, read in READERS.items():
        world.right[name] = read(world)
    for store in OF_STORE:
        assert not verify_store(getattr(world, store)).damage
    return world


# What reads ---------------------------------------------------------------------------------


def exported(world: World, store: str, kind: str) -> Any:
    output = world.folder / "export"
    export(
        ResultStore.open(getattr(world, store)),
        output,
        Export(kind, ("second",) if kind == "regenie" else ()),
    )
    content = output.read_bytes()
    output.unlink()
    return content


def lines_of_hits(world: World) -> Any:
    store = ResultStore.open(world.complete)
    genotypes = scanned_genotypes(store, [world.genotypes])
    return hits(store, (), genotypes=genotypes, threshold=0.05).to_csv()


def page(world: World) -> Any:
    output = world.folder / "page.html"
    write_report(ResultStore.open(world.complete), output)
    return len(output.read_bytes()) > 0 and tables_of(output.read_text())


def tables_of(html: str) -> list[str]:
    """Return the cells of a page: pictures may differ in nothing that is to be read."""
    return [part.partition("</td>")[0] for part in html.split("<td")[1:]]


def calibrated(world: World) -> Any:
    return [one.to_json() for one in calibration(ResultStore.open(world.complete), ())]


def dispersed(world: World) -> Any:
    kept = contents_of(world.complete)
    try:
        store = ResultStore.open(world.complete)
        found = write_dispersion(store, "published", [])
        effects = {v.name: plain(store.array(v.name)[:]) for v in store.derived}
        return [one.to_json() for one in found], effects
    finally:
        restore(world.complete, kept)


def null_models(world: World) -> Any:
    store = ResultStore.open(world.prepared)
    found = []
    for name in store.phenotypes:
        null = stored_null_model(store, name)
        arrays = [null.samples, null.y, null.mean_design, null.variance_design, null.y_scale]
        effects = null.random_effects
        if effects is not None:
            for left_out in effects.sets:
                structure = effects.sets[left_out]
                arrays += [structure.values, structure.columns]
        arrays += [f.alpha for f in null.fits.values()] + [f.beta for f in null.fits.values()]
        found.append([plain(a) for a in arrays])
    return found


def resumed(world: World) -> Any:
    """Go on with the store that is half done, and return what it holds then."""
    where = world.partial
    config = replace(world.config, output=where)
    kept = contents_of(where)
    try:
        store = run.scan(config, executor=SerialExecutor(), retry_failed=True)
        return all_results(store)
    finally:
        restore(where, kept)


def all_results(store: ResultStore) -> Any:
    names = [*(v.name for v in store.variables), "variant_id", "contig", "position"]
    return {name: plain(store.array(name)[:]) for name in names}


def dataset(world: World) -> Any:
    opened = GenotypeDataset.open(world.genotypes)
    found: list[Any] = [opened.fingerprint, opened.contigs, plain(opened.samples.individual_id)]
    for start, stop in opened.blocks(0, opened.n_variants):
        variants, block = opened.variants(start, stop), opened.read_block(start, stop)
        found += [plain(getattr(variants, n)) for n in ("contig", "position", "variant_id")]
        found += [plain(getattr(variants, n)) for n in ("effect_allele", "other_allele")]
        found += [plain(block.copies())]
        found += [plain(opened.genotype_counts(start, stop))]
    return found


def stand(world: World) -> Any:
    state = scan_state(ResultStore.open(world.complete)).to_json()
    # A damaged record of the ledger counts as none: it shows, and is wrong about nothing.
    return state["tests"], state["complete"], state["path"]


def lazily(world: World) -> Any:
    data = ResultStore.open(world.complete).dataset(chunks=None)
    return {name: plain(data[name].values) for name in ("add", "var_se", "status", "position")}


def plain(values: Any) -> Any:
    array = np.asarray(values)
    return array.astype(object).tolist() if array.dtype.kind in "OTU" else array.tobytes()


READERS: dict[str, Callable[[World], Any]] = {
    "export tsv": partial(exported, store="complete", kind="tsv"),
    "export regenie": partial(exported, store="complete", kind="regenie"),
    "export partial": partial(exported, store="partial", kind="tsv"),
    "calibration": calibrated,
    "hits": lines_of_hits,
    "xarray": lazily,
    "status": stand,
    "null models": null_models,
    "genotypes": dataset,
    "scan": resumed,
    "dispersion": dispersed,
    "report": page,
}
SLOW = ("report", "scan", "dispersion")
OF_STORE = {
    "genotypes": ("genotypes", "hits", "scan"),
    "complete": (
        *("export tsv", "export regenie", "calibration", "hits", "xarray", "status"),
        *("dispersion", "report"),
    ),
    "partial": ("export partial", "scan"),
    "prepared": ("null models",),
}


# Files of a store, in a folder or an object store -------------------------------------------


def names_of(store: Place) -> list[str]:
    if isinstance(store, ObjectPath):
        return sorted(name for name in store.objects() if not name.startswith(".lease"))
    files = (p for p in store.rglob("*") if p.is_file() and p.name != "lock")
    return sorted(p.relative_to(store).as_posix() for p in files)


def put(store: Place, name: str, data: bytes | None) -> None:
    if data is None:
        (store / name).unlink()
    else:
        if isinstance(store, Path):
            (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(data)


def contents_of(store: Place) -> dict[str, bytes]:
    return {name: (store / name).read_bytes() for name in names_of(store)}


def restore(store: Place, kept: dict[str, bytes]) -> None:
    for name in names_of(store):
        if name not in kept:
            put(store, name, None)
    for name, data in kept.items():
        try:
            same = (store / name).read_bytes() == data
        except FileNotFoundError:
            same = False
        if not same:
            put(store, name, data)


def damage(store: Place, kept: dict[str, bytes], chance: random.Random) -> str:
    """Damage one file, and say which and how."""
    while True:
        kind, name = chance.choice(KINDS), chance.choice(list(kept))
        data = bytearray(kept[name])
        if kind == "deleted":
            put(store, name, None)
        elif kind == "cut short":
            put(store, name, bytes(data[: chance.randrange(len(data))]))
        elif kind == "bit":
            bit = chance.randrange(8 * len(data))
            data[bit // 8] ^= 1 << bit % 8
            put(store, name, bytes(data))
        else:
            others = [o for o in kept if "/c/" in o and kept[o] != kept[name]]
            if "/c/" not in name or not others:
                continue
            other = chance.choice(others)
            put(store, name, kept[other])
            put(store, other, kept[name])
            return f"{kind}: {name} and {other}"
        return f"{kind}: {name}"


def corrupt(
    world: World, number: int, chance: random.Random, readers: int, slow: float
) -> Iterator[tuple[str, str, str]]:
    """Yield what was damaged, the reader, and what came of it, for so many corruptions."""
    which = list(OF_STORE)
    kept = {name: contents_of(getattr(world, name)) for name in which}
    for _ in range(number):
        of = chance.choice(which)
        store = getattr(world, of)
        what = f"{of}/{damage(store, kept[of], chance)}"
        quick = [r for r in OF_STORE[of] if r not in SLOW]
        slower = [r for r in OF_STORE[of] if r in SLOW and chance.random() < slow]
        for reader in [*chance.sample(quick, min(readers, len(quick))), *slower]:
            yield what, reader, outcome(world, reader)
        # Of a store that is not complete nobody knows how long its ledger was.
        if not what.startswith("partial/") or "/ledger/" not in what:
            yield what, "verify", verified(store)
        for name in which:
            restore(getattr(world, name), kept[name])


def verified(store: Place) -> str:
    try:
        return ERROR if verify_store(store).damage else WRONG
    except HlmmScanError:  # without its root it is not known for ours
        return ERROR
    except Exception:
        traceback.print_exc()
        return TRACEBACK


def outcome(world: World, reader: str) -> str:
    forget_inputs()
    host_cache.sweep()
    shutil.rmtree(os.environ[host_cache.FOLDER_VARIABLE], ignore_errors=True)
    try:
        found = READERS[reader](world)
    except HlmmScanError:
        return ERROR
    except Exception:
        traceback.print_exc()
        return TRACEBACK
    return RIGHT if found == world.right[reader] else WRONG


# All of it ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds, for the gate")
    parser.add_argument("--corruptions", type=int, default=1000)
    parser.add_argument("--objects", type=int, default=60, help="of them on an object store")
    parser.add_argument("--cuts", type=int, default=20, help="power cuts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    asked = parser.parse_args()
    if asked.quick:
        asked.corruptions, asked.objects, asked.cuts = 30, 3, 2
    logging.getLogger("hlmm_scan").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        os.environ[host_cache.FOLDER_VARIABLE] = str(folder / "cache")
        results = corruptions(folder, asked)
        cuts = cut_power(folder / "cuts", asked.cuts, asked.seed) if asked.cuts else []
    rows = [(place, reader, *counts) for (place, reader), counts in sorted(results.items())]
    lost = [cut for cut in cuts if cut != "identical"]
    told = "\n\n".join(
        [
            "# Damage",
            table(["store", "read by", RIGHT, ERROR, WRONG, TRACEBACK], rows),
            f"Power cuts: {len(cuts) - len(lost)} of {len(cuts)} identical afterwards.",
            *lost,
        ]
    )
    figures = {"corruptions": [list(map(str, row)) for row in rows], "cuts": cuts}
    write(asked.output, "damage", told + "\n", figures)
    if lost or any(row[4] or row[5] for row in rows):
        raise SystemExit("damage: FAILED")


def corruptions(folder: Path, asked: Any) -> dict[tuple[str, str], list[int]]:
    """Return how often each outcome came, by where the store lies and who read it."""
    results: dict[tuple[str, str], list[int]] = {}
    order = (RIGHT, ERROR, WRONG, TRACEBACK)
    readers, slow = (1, 0.1) if asked.quick else (2, 0.2)

    def count(where: str, world: World, number: int, seed: int) -> None:
        seen: Counter[str] = Counter()
        for what, reader, came in corrupt(world, number, random.Random(seed), readers, slow):
            results.setdefault((where, reader), [0, 0, 0, 0])[order.index(came)] += 1
            if seen[what] == 0 and len(seen) % 50 == 0:
                print(f"{where}: {len(seen)} corruptions", file=sys.stderr, flush=True)
            seen[what] += 1
            if came in (WRONG, TRACEBACK):
                print(f"{where}: {what}: {reader}: {came}", file=sys.stderr, flush=True)

    files = folder / "files"
    files.mkdir()
    count("folder", make_world(folder / "a", files), asked.corruptions - asked.objects, asked.seed)
    if asked.objects:
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from object_server import BUCKET, environment, s3_server

        with s3_server() as port:
            os.environ.update(environment(port))
            world = make_world(folder / "b", place(f"s3://{BUCKET}/damage"))
            count("object store", world, asked.objects, asked.seed + 1)
    return results


if __name__ == "__main__":
    main()
