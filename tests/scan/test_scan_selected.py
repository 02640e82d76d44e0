"""Scans of several datasets and of chosen variants: each variant keeps its numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_helpers import ShuffledExecutor, assert_identical

from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.joined import JoinedGenotypes
from hlmm_scan.results.inputs import scanned_genotypes, stored_null_model
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import DaskExecutor

N_VARIANTS, PER_CHROMOSOME = 72, 24
ROWS = [3, 4, 5, 11, 12, 40, 70]


@pytest.fixture(scope="session")
def chromosomes(bench) -> tuple[Path, ...]:
    """One dataset a chromosome, in chunks of different length."""
    places = []
    for k, bed in enumerate(bench.cohort.beds):
        place = bench.folder / f"chromosome{k}.zarr"
        convert([bed], place, chunk_variants=(12, 7, 24)[k])
        places.append(place)
    return tuple(places)


@pytest.fixture
def listed(bench, tmp_path) -> Path:
    """A file of ROWS' ids and one that is unknown."""
    ids = GenotypeDataset.open(bench.genotypes()).variant_ids(0, N_VARIANTS)
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{i}\n" for i in [*ids[ROWS], "rs_unknown"]))
    return path


def assert_same_rows(store: Path, reference: Path, rows: Any, exact: bool) -> None:
    """Rows of a scan against those of the whole: bit for bit, or to 1e-10 of a standard error."""
    here, there = ResultStore.open(store), ResultStore.open(reference)
    for name in ("variant_id", "contig", "position", "effect_allele"):
        np.testing.assert_array_equal(here.array(name)[:], np.asarray(there.array(name)[:])[rows])
    for k in range(len(here.phenotypes)):
        mine = here.read_partition(k, 0, here.array("status").shape[1])
        whole = there.read_partition(k, 0, N_VARIANTS)
        assert (mine["status"] > 0).all()
        for name, values in mine.items():
            wanted = whole[name][rows]
            if exact or values.dtype.kind != "f":
                np.testing.assert_array_equal(values, wanted, err_msg=name)
                continue
            se = {"add": "add_se", "var": "var_se"}.get(name)
            scale = whole[se][rows] if se else np.maximum(np.abs(wanted), 1e-3)
            assert np.nanmax(np.abs(values - wanted) / scale, initial=0) < 1e-10, name
            np.testing.assert_array_equal(np.isnan(values), np.isnan(wanted), err_msg=name)


@pytest.mark.parametrize("kind", ["hlm", "joint", "hlmm"])
def test_a_dataset_for_each_chromosome_gives_what_the_whole_gives(
    bench, tmp_path, chromosomes, kind
):
    store = bench.scan(tmp_path / "r", kind, genotypes=chromosomes)
    rows = np.arange(N_VARIANTS)
    assert_same_rows(store, bench.reference(kind), rows, exact=kind == "hlm")


@pytest.mark.parametrize("kind", ["hlm", "joint", "hlmm"])
def test_chosen_variants_give_what_they_give_in_the_whole(
    bench, tmp_path, chromosomes, listed, kind
):
    by_id = bench.scan(tmp_path / "ids", kind, extract=listed)
    assert_same_rows(by_id, bench.reference(kind), ROWS, exact=kind == "hlm")
    of_parts = bench.scan(tmp_path / "parts", kind, genotypes=chromosomes, extract=listed)
    assert_same_rows(of_parts, bench.reference(kind), ROWS, exact=kind == "hlm")
    if kind == "hlm":
        table = ResultStore.open(bench.reference(kind))
        position = int(table.array("position")[40])
        alone = bench.scan(tmp_path / "one", kind, region=(f"2:{position}-{position}",))
        assert_same_rows(alone, bench.reference(kind), [40], exact=True)
        rest = bench.scan(tmp_path / "rest", kind, exclude=listed, region=("2", "3"))
        others = [k for k in range(PER_CHROMOSOME, N_VARIANTS) if k not in ROWS]
        assert_same_rows(rest, bench.reference(kind), others, exact=True)


@pytest.mark.parametrize("kind", ["joint", "hlmm"])
def test_how_a_view_is_cut_and_in_which_order_changes_no_bit(bench, tmp_path, chromosomes, kind):
    options = {"genotypes": chromosomes, "region": ("1", "3")}
    whole = bench.scan(tmp_path / "one", kind, partition_variants=48, **options)
    cut = bench.scan(
        tmp_path / "cut", kind, ShuffledExecutor(seed=3), partition_variants=24, **options
    )
    for k in range(len(ResultStore.open(whole).phenotypes)):
        one, two = (ResultStore.open(p).read_partition(k, 0, 48) for p in (whole, cut))
        assert {n: v.tobytes() for n, v in one.items()} == {n: v.tobytes() for n, v in two.items()}


def test_dask_workers_read_a_view_by_its_description(bench, tmp_path, chromosomes, listed):
    options = {"genotypes": chromosomes, "extract": listed}
    here = bench.scan(tmp_path / "here", **options)
    there = bench.scan(tmp_path / "there", executor=DaskExecutor(workers=2), **options)
    assert_identical(there, here)


def test_a_task_reads_only_the_datasets_it_needs(bench, tmp_path, chromosomes, monkeypatch):
    read = set()
    original = GenotypeDataset.read_block

    def read_block(self, start, stop):
        read.add((self.path.name, start))
        return original(self, start, stop)

    monkeypatch.setattr(GenotypeDataset, "read_block", read_block)
    bench.scan(tmp_path / "r", genotypes=chromosomes, region=("2",))
    assert read == {("chromosome1.zarr", start) for start in (0, 7, 14, 21)}


def test_other_choices_are_another_scan(bench, tmp_path, chromosomes, listed):
    config = bench.config(tmp_path / "r", extract=listed)
    other = tmp_path / "other.txt"
    other.write_text("rs_unknown\n")
    run.scan(config)
    for name, value in (
        ("extract", None),
        ("exclude", other),
        ("region", ("1",)),
        ("genotypes", chromosomes),
    ):
        changed = bench.config(tmp_path / "r", **{"extract": listed, name: value})
        with pytest.raises(InputError, match=rf"made by another run \({name}: stored "):
            run.prepare(changed)
    run.scan(config)


def test_it_is_said_what_each_option_took(bench, tmp_path, listed, caplog):
    config = bench.config(tmp_path / "r", extract=listed, region=("1", "2"))
    said = run.dry_run(config)
    assert f"extract            7 of 72 variants are in {listed}, 1 of its 8 ids unknown" in said
    assert "region             48 of 72 variants in 1, 2" in said
    assert "variants           6 of 72 are scanned" in said
    assert not (tmp_path / "r").exists()
    with caplog.at_level(logging.INFO):
        run.prepare(config)
    assert "7 of 72 variants are in" in caplog.text
    attributes = ResultStore.open(tmp_path / "r").attributes
    assert attributes["inputs"]["extract"] == str(listed)
    assert attributes["parameters"]["region"] == ["1", "2"]


def test_random_effects_are_found_in_all_variants(bench, tmp_path):
    store = ResultStore.open(
        bench.scan(tmp_path / "r", "hlmm", phenotype=("trait1",), region=("2",))
    )
    mine = stored_null_model(store, "trait1")
    whole = stored_null_model(ResultStore.open(bench.reference("hlmm")), "trait1")
    assert mine.random_effects.variant_ids == whole.random_effects.variant_ids
    assert set(mine.fits) == {"", "2"}  # only what is scanned is left out
    assert mine.fits[""].random_variance == whole.fits[""].random_variance
    assert mine.fits["2"].random_variance == whole.fits["2"].random_variance


def test_results_find_their_genotypes_again(bench, tmp_path, chromosomes, listed):
    store = ResultStore.open(bench.scan(tmp_path / "r", genotypes=chromosomes, extract=listed))
    view = scanned_genotypes(store)
    assert isinstance(view, JoinedGenotypes)
    ids = list(store.array("variant_id")[:])
    assert list(view.variant_ids(0, view.n_variants)) == ids
    whole = GenotypeDataset.open(bench.genotypes())
    np.testing.assert_array_equal(
        view.read_packed(0, len(ROWS)), whole.read_packed(0, N_VARIANTS)[ROWS]
    )
    with pytest.raises(InputError, match="not the genotypes that"):
        scanned_genotypes(store, chromosomes[::-1])


def test_the_command_takes_datasets_and_regions(bench, tmp_path, chromosomes, capsys):
    words = ["scan", "--phenotypes", str(bench.phenotypes), "-o", str(tmp_path / "r")]
    for place in chromosomes:
        words += ["--genotypes", str(place)]
    words += ["--region", "1", "--region", "3", "--workers", "1"]
    assert main([*words, "--dry-run"]) == 0
    assert "48 of 72 variants in 1, 3" in capsys.readouterr().out
    assert main(words) == 0
    rows = [*range(24), *range(48, 72)]
    assert_same_rows(tmp_path / "r", bench.reference("hlm"), rows, exact=True)
    assert main([*words[:-2], "--region", "9", "--workers", "1"]) == 2
    assert "'9': no such chromosome" in capsys.readouterr().err
