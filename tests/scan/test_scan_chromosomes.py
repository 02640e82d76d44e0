"""Chromosomes by all their names, and chosen ones, give the results of the plain scan."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from plink_by_hand import Fileset

from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.options import fit_options

N, EACH = 120, 6
CONTIGS = ("1", "2", "X")
NAMES = {
    "plain": CONTIGS,
    "padded": ("01", "chr02", "0X"),
    "numbers": ("1", "2", "23"),
    "accessions": ("NC_000001.11", "NC_000002.12", "NC_000023.11"),
    "parts": ("chr1", "chr2", "X_nonPAR"),
}


class Cohort:
    """People of both sexes at three chromosomes, by any names."""

    def __init__(self, folder):
        rng = np.random.default_rng(8)
        self.folder = folder
        sex = 1 + np.arange(N) % 2
        self.copies = rng.binomial(2, 0.35, (3 * EACH, N)).astype(float)
        x = slice(2 * EACH, None)
        self.copies[x, sex == 1] = 2.0 * rng.binomial(1, 0.35, (EACH, (sex == 1).sum()))
        people = [f"p{k}" for k in range(N)]
        self.fam = pd.DataFrame({"f": people, "i": people, "a": 0, "b": 0, "sex": sex, "y": -9})
        y = 0.5 * self.copies[1] + 0.5 * self.copies[14] + (sex == 1) + rng.normal(size=N)
        pd.DataFrame({"IID": people, "y": y}).to_csv(folder / "y.tsv", sep="\t", index=False)
        rows = "".join(
            f"{c} {' '.join(f'{v:.3f}' for v in rng.normal(scale=0.2, size=N))}\n"
            for c in (1, 2, 23)
        )
        (folder / "y.loco").write_text(f"FID_IID {' '.join(f'{p}_{p}' for p in people)}\n{rows}")
        (folder / "pred.list").write_text("\ufeffy y.loco\n")

    def dataset(self, name, contigs):
        m = 3 * EACH
        bim = pd.DataFrame(
            {"c": np.repeat(contigs, EACH), "id": [f"v{k}" for k in range(m)], "cm": 0,
             "p": 5_000_000 + np.arange(m), "a": "A", "b": "G"}
        )  # fmt: skip
        out = self.folder / f"{name}.zarr"
        if not out.exists():
            bed = Fileset(self.copies, bim, self.fam).write(self.folder / name)
            convert([bed], out, chunk_variants=4)
        return out

    def config(self, name="plain", **options):
        defaults = {
            "genotypes": self.dataset(name, NAMES.get(name, CONTIGS)),
            "phenotypes": self.folder / "y.tsv",
            "output": self.folder / "r.zarr",
            "workers": 1,
        }
        return ScanConfig(**{**defaults, **options})

    def scan(self, name="plain", **options):
        config = self.config(name, **options)
        store = run.scan(config, executor=SerialExecutor(), overwrite=True)
        return xr.open_zarr(store.path).load().isel(phenotype=0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("chromosomes"))


def assert_same(results, expected):
    assert results["variant_id"].values.tolist() == expected["variant_id"].values.tolist()
    for name in ("add", "add_se", "var", "n", "effect_allele_frequency", "status"):
        np.testing.assert_allclose(results[name].values, expected[name].values, rtol=1e-9)


def test_other_names_are_the_same_chromosomes(cohort):
    predictions = cohort.folder / "pred.list"
    expected = cohort.scan(offset=predictions)
    assert expected["effect_allele_frequency"].values[-1] != cohort.copies[-1].mean() / 2
    for name in ("padded", "numbers", "accessions", "parts"):
        assert_same(cohort.scan(name, offset=predictions), expected)


@pytest.mark.parametrize(
    ("regions", "rows"),
    [(["X"], slice(12, 18)), (["2", "chr23"], slice(6, 18)), (["01"], slice(0, 6))],
)
def test_chosen_chromosomes_have_the_results_of_the_whole_scan(cohort, regions, rows):
    """Also those that leave out a chromosome before another."""
    for options in ({}, {"offset": cohort.folder / "pred.list"}):
        whole = cohort.scan(**options).isel(variant=rows)
        assert_same(cohort.scan(region=tuple(regions), **options), whole)


def test_a_chromosome_is_left_out_whatever_the_random_effects_call_it(cohort, caplog):
    expected = cohort.scan(random_effects=cohort.dataset("plain", CONTIGS))
    for name in ("numbers", "accessions"):
        with caplog.at_level(logging.WARNING):
            found = cohort.scan(random_effects=cohort.dataset(name, NAMES[name]))
        assert_same(found, expected)
    assert "no random effects lie on" not in caplog.text


def test_names_that_are_not_known_are_said_once(cohort, caplog):
    genotypes = cohort.dataset("unknown", ("1", "scaffold_7", "Z"))
    with caplog.at_level(logging.WARNING):
        run.dry_run(cohort.config(genotypes=genotypes))
    (told,) = [r.getMessage() for r in caplog.records if "no known name" in r.getMessage()]
    assert told.startswith("chromosome scaffold_7, Z: no known name")


def test_another_species_is_not_asked_for_its_human_build(cohort, tmp_path):
    """Mouse: 19 autosomes, and X where the pseudo-autosomal regions of humans are."""
    contigs = [*map(str, range(1, 20)), "X"]
    names = [f"v{c}" for c in contigs]
    bim = pd.DataFrame({"c": contigs, "id": names, "cm": 0, "p": 2_000_000, "a": "A", "b": "G"})
    copies = np.tile(cohort.copies, (2, 1))[: len(contigs)]
    convert([Fileset(copies, bim, cohort.fam).write(tmp_path / "m")], tmp_path / "m.zarr")
    with pytest.raises(InputError, match=r"another species: say --autosomes 19"):
        run.dry_run(cohort.config(genotypes=tmp_path / "m.zarr"))
    run.dry_run(cohort.config(genotypes=tmp_path / "m.zarr", autosomes=19))


@pytest.mark.parametrize(("asked", "least"), [(None, -np.inf), (0.0, 0.0), (0.3, 0.3)])
def test_a_negative_information_filters_nobody_unasked(asked, least):
    parameters = {
        "min_maf": 0.0, "min_mac": 0, "max_missing": 1.0, "se": "expected", "sandwich": False,
        "likelihood_ratio": False, "screen": False, "refine_below": None, "min_info": asked,
    }  # fmt: skip
    plan = SimpleNamespace(parameters=parameters, model=SimpleNamespace(dosages=True))
    assert fit_options(plan).min_info == least
