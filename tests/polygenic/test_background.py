"""Backgrounds from files and from memory: what is stored, resumed, refused, and taken by a scan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import hlmm_scan as hs
from hlmm_scan.cli import cli, main
from hlmm_scan.cohort.loco_files import read_loco
from hlmm_scan.cohort.offsets import load_offsets
from hlmm_scan.errors import DamagedError, InfrastructureError, InputError
from hlmm_scan.genotypes.blocks import Dosages, HardCalls
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.polygenic import plain, run
from hlmm_scan.polygenic.blocks import chromosomes_of, codes_of
from hlmm_scan.polygenic.folds import folds_of
from hlmm_scan.polygenic.plan import SHARES
from hlmm_scan.polygenic.run import JOURNAL
from hlmm_scan.polygenic.state import background_state
from hlmm_scan.polygenic.task import PREDICTORS, run_task
from hlmm_scan.scan.clusters import EmbeddedCluster
from hlmm_scan.scan.pools import DaskPool

ARRAYS = ("phenotype", "contig", "sample_id", "prediction", "cv_r2", "heritability", "n")


def numbers(background, trait: str | None = None) -> dict:
    """All stored numbers, of one trait or of all."""
    with background.dataset.load() as dataset:
        chosen = dataset if trait is None else dataset.sel(phenotype=[trait])
        return {name: chosen[name].values for name in ARRAYS}


def assert_same(one: dict, other: dict) -> None:
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_what_is_stored(study, whole):
    dataset = xr.open_zarr(str(whole.path))
    assert dataset["prediction"].dims == ("phenotype", "contig", "samples")
    assert dataset["prediction"].attrs["units"] == "phenotype units"
    assert list(dataset["contig"].values) == ["1", "2", "3", "X"]
    assert list(dataset["sample_id"].values) == list(study.people)
    there = np.isfinite(dataset["prediction"].values)
    for k, name in enumerate(study.traits):
        assert (there[k] == study.traits[name].notna().to_numpy()).all()
    assert (dataset["cv_r2"].values > 0.03).all()
    assert dataset.attrs["blocks"] == 12
    assert dataset.attrs["parameters"]["folds"] == 5
    assert "cv_r2" in repr(whole)
    assert "<caption>" in whole._repr_html_()
    assert list(whole.to_frame().index) == ["a", "b", "c", "d"]


def test_predictions_are_those_of_the_plain_form(study, whole):
    """Missing calls at their mean to the nearest 32nd, X left out for itself, by an own program."""
    copies = np.where(study.copies < 0, np.nan, study.copies.astype(float))
    mean = np.nanmean(copies, axis=1)
    filled = np.where(np.isnan(copies), np.rint(mean * 32)[:, None] / 32, copies)
    blocks = [np.arange(k, k + 20) for k in range(0, len(copies), 20)]
    with whole.dataset.load() as dataset:
        for name in ("a", "c"):
            rows = np.flatnonzero(study.traits[name].notna())
            z = np.column_stack([np.ones(len(rows)), study.covariates.to_numpy()[rows]])
            expected = plain.stacked_ridge(
                filled.T[rows],
                blocks,
                np.repeat([0, 1, 2, 3], 3).tolist(),
                study.traits[name].to_numpy()[rows],
                z,
                folds_of(study.people[rows], 5),
                SHARES,
                4,
            )
            found = dataset["prediction"].sel(phenotype=name).values[:, rows]
            assert np.abs(found - expected.prediction).max() < 5e-3 * expected.prediction.std()
            assert abs(dataset["cv_r2"].sel(phenotype=name) - expected.cv_r2) < 1e-4


@pytest.mark.parametrize("traits", [["a"], ["c"], ["d", "b"]])
def test_a_trait_alone_has_the_bits_it_has_beside_others(study, whole, tmp_path, traits):
    alone = study.background(tmp_path / "b.zarr", traits)
    for name in traits:
        assert_same(numbers(alone, name), numbers(whole, name))


def test_workers_change_no_bit(study, whole, tmp_path):
    assert_same(numbers(study.background(tmp_path / "b.zarr", workers=2)), numbers(whole))


class Backwards:
    """Tasks from the last to the first, of which some end with an error."""

    def __init__(self, error: BaseException | None = None, after: int = 10**6) -> None:
        self.error, self.left, self.done = error, after, 0

    def run(self, tasks):
        for task in list(tasks)[::-1]:
            if self.left == 0:
                raise self.error
            self.left -= 1
            self.done += 1
            yield run_task(task)


@pytest.mark.parametrize("after", [0, 5, 12, 14])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), InfrastructureError("lost")])
def test_what_was_cut_off_goes_on(study, whole, tmp_path, monkeypatch, after, error):
    monkeypatch.setattr(run, "SerialPool", lambda do: pool)
    path = tmp_path / "b.zarr"
    pool = Backwards(error, after)
    with pytest.raises(type(error)):
        study.background(path)
    assert not path.exists()
    state = background_state(path)
    assert state.blocks_done + state.traits_done == after
    assert "cut off" in str(state)
    pool = Backwards()
    assert_same(numbers(study.background(path)), numbers(whole))
    assert pool.done == 16 - after  # 12 blocks and 4 traits, none of them twice
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.zarr"]
    assert background_state(path).complete
    pool = None  # nothing is done again
    assert_same(numbers(study.background(path)), numbers(whole))


def test_a_line_torn_by_a_kill_does_not_count(study, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SerialPool", lambda do: pool)
    pool = Backwards(KeyboardInterrupt(), 7)
    with pytest.raises(KeyboardInterrupt):
        study.background(tmp_path / "b.zarr")
    (journal,) = tmp_path.rglob(JOURNAL)
    with journal.open("a") as file:
        file.write('{"level": "block", "ind')
    pool = Backwards()
    assert_same(numbers(study.background(tmp_path / "b.zarr")), numbers(whole))
    assert pool.done == 9


def test_damage_to_what_is_kept_is_found(study, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SerialPool", lambda do: pool)
    pool = Backwards(KeyboardInterrupt(), 13)
    with pytest.raises(KeyboardInterrupt):
        study.background(tmp_path / "b.zarr")
    chunks = sorted(p for p in (next(tmp_path.rglob(PREDICTORS)) / "predictors" / "c").rglob("*")
                    if p.is_file())  # fmt: skip
    assert len(chunks) == 48
    chunks[0].unlink()
    pool = Backwards()
    with pytest.raises(DamagedError, match="missing; give the same command again"):
        study.background(tmp_path / "b.zarr")
    assert_same(numbers(study.background(tmp_path / "b.zarr")), numbers(whole))


def test_killed_processes_lose_nothing(study, whole, tmp_path):
    """SIGKILL at any moment; what is noted is not done again."""
    study.traits.to_csv(tmp_path / "t.tsv", sep="\t", na_rep="NA", float_format="%.17g")
    study.covariates.to_csv(tmp_path / "c.tsv", sep="\t", float_format="%.17g")
    output = tmp_path / "out"
    output.mkdir()
    command = [sys.executable, "-m", "hlmm_scan", "polygenic", "--workers", "1"]
    command += ["--genotypes", study.genotypes.path, "--phenotypes", tmp_path / "t.tsv"]
    command += ["--mean-covariates", tmp_path / "c.tsv", "--sex-table", study.sex_table]
    command += ["--block-size", "20", "-o", output / "b.zarr"]
    seen = []
    for wanted in (2, 8, 13):
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        end = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < end:
            lines = [p.read_bytes().count(b"}\n") for p in output.rglob(JOURNAL) if p.exists()]
            if lines and lines[0] >= wanted:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        process.communicate(timeout=100)
        if process.returncode == 0:
            break  # it was quicker than we look
        state = background_state(output / "b.zarr")
        assert not state.running
        seen.append(state.blocks_done + state.traits_done)
    assert seen
    assert seen == sorted(seen)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert "complete" in done.stdout
    found = hs.polygenic(
        study.genotypes, tmp_path / "t.tsv", output / "b.zarr", block_size=20,
        mean_covariates=tmp_path / "c.tsv", sex_table=study.sex_table,
    )  # fmt: skip
    assert_same(numbers(found), numbers(whole))
    assert [entry.name for entry in output.iterdir()] == ["b.zarr"]


def test_a_task_that_ends_its_workers_is_named(study):
    class Deadly:
        def __str__(self) -> str:
            return "block 3"

    pool = DaskPool(EmbeddedCluster(1), _abort, "ended every worker")
    with pytest.raises(InputError, match="ended every worker"):
        list(pool.run([1]))


def _abort(task):
    os.kill(os.getpid(), signal.SIGKILL)


# what a scan makes of it ------------------------------------------------------------------


def test_a_scan_takes_it_and_its_export_alike(study, whole, tmp_path):
    options = {"mean_covariates": study.covariates, "sex_table": study.sex_table, "min_mac": 5}
    scan = {
        name: hs.scan(
            study.genotypes, study.traits[["a", "b"]], tmp_path / name, offset=offset, **options
        ).dataset.load()
        for name, offset in (("ours", whole), ("path", whole.path), ("none", None))
    }
    assert hs.export(whole, tmp_path / "loco") == 16
    listed = tmp_path / "loco" / "background_pred.list"
    loco = hs.scan(
        study.genotypes, study.traits[["a", "b"]], tmp_path / "loco.zarr", offset=listed, **options
    ).dataset.load()
    for name in ("add", "add_se", "var", "add_neg_log10_p", "n"):
        np.testing.assert_array_equal(scan["ours"][name], scan["path"][name])
    # On X the list's units are taken with sex among the covariates.
    autosomes = study.contigs != "X"
    for there, tolerance in ((autosomes, 1e-6), (~autosomes, 2e-2)):
        one, other = (found["add_neg_log10_p"].values[:, there] for found in (scan["ours"], loco))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    assert (scan["ours"]["add_se"] < scan["none"]["add_se"]).mean() > 0.95


def test_units_are_the_phenotypes(study, whole):
    offsets = load_offsets(whole.path, ["a"], study.genotypes.samples, autosomes=22).read("a")
    assert offsets.units == "phenotype"
    assert set(offsets.rows) == {"1", "2", "3", "X"}
    for contig, row in (("chr2", "2"), ("X", "X"), ("XY", "X"), ("MT", "X")):
        assert offsets.row(contig) == row
    with whole.dataset.load() as dataset:
        stored = dataset["prediction"].sel(phenotype="a", contig="2").values
    np.testing.assert_array_equal(offsets.rows["2"], stored.astype(float))
    # X has the prediction of all autosomes, and a causal X one less for the others.
    rest = study.traits["a"] - study.covariates["age"]
    assert np.corrcoef(rest, offsets.rows["3"])[0, 1] > np.corrcoef(rest, offsets.rows["1"])[0, 1]


def test_people_are_found_by_name(study, whole):
    order = np.arange(study.n)[::-1][:100]
    samples = SampleIds(study.people.to_numpy(object)[order], None)
    offsets = load_offsets(whole.path, ["a"], samples, autosomes=22).read("a")
    with whole.dataset.load() as dataset:
        stored = dataset["prediction"].sel(phenotype="a", contig="1").values
    np.testing.assert_array_equal(offsets.rows["1"], stored[order].astype(float))
    strangers = SampleIds(np.array(["q1", "q2"], object), None)
    with pytest.raises(InputError, match="no person of"):
        load_offsets(whole.path, ["a"], strangers, autosomes=22).read("a")


def test_the_export_reads_back(study, whole, tmp_path):
    hs.export(whole.path, tmp_path / "loco", phenotype="c")
    rows = read_loco(tmp_path / "loco" / "background_1.loco", study.genotypes.samples)
    assert list(rows) == ["1", "2", "3", "X"]
    with whole.dataset.load() as dataset:
        one = dataset.sel(phenotype="c")
        np.testing.assert_allclose(
            rows["X"], one["prediction"].sel(contig="X") / one["residual_sd"].item(), rtol=1e-6
        )
    with pytest.raises(InputError, match="something stands there"):
        hs.export(whole.path, tmp_path / "loco")
    with pytest.raises(InputError, match="has no tests"):
        hs.export(whole.path, tmp_path / "other", test="add")
    with pytest.raises(InputError, match="a polygenic background, not results"):
        hs.hits(whole)


def test_kinship_no_longer_inflates_chromosomes_without_causal_variants(tmp_path):
    """Families: their members share causal alleles, and those of every other variant."""
    rng = np.random.default_rng(8)
    families, size, m = 150, 8, 900
    frequency = rng.uniform(0.1, 0.5, (m, 1, 1))
    parents = rng.random((m, families, 4)) < frequency  # alleles of two parents
    picked = rng.integers(0, 2, (2, m, families, size))
    from_mother = np.take_along_axis(parents[:, :, :2], picked[0], 2)
    from_father = np.take_along_axis(parents[:, :, 2:], picked[1], 2)
    copies = (from_mother.astype(np.int8) + from_father).reshape(m, -1)
    contig = np.repeat(["1", "2", "3"], m // 3)
    n = copies.shape[1]
    effects = np.where(contig != "3", rng.normal(size=m), 0.0)
    genetic = effects @ copies
    y = genetic / genetic.std() * np.sqrt(0.8) + rng.normal(size=n) * np.sqrt(0.2)
    people = pd.Index([f"p{i}" for i in range(n)], name="IID")
    variants = pd.DataFrame({"contig": contig, "position": np.arange(m) + 1})
    variants = variants.assign(
        variant_id=[f"v{j}" for j in range(m)], effect_allele="C", other_allele="A"
    )
    genotypes = hs.convert(copies, tmp_path / "g.zarr", samples=people, variants=variants)
    traits = pd.DataFrame({"y": y}, people)
    background = hs.polygenic(genotypes, traits, tmp_path / "b.zarr", block_size=100)
    inflation = {}
    for name, offset in (("without", None), ("with", background)):
        found = hs.scan(genotypes, traits, tmp_path / name, offset=offset).dataset.load()
        chi2 = (found["add"] / found["add_se"]).values[0, contig == "3"] ** 2
        inflation[name] = np.median(chi2) / 0.4549
    assert inflation["without"] > 1.6
    assert inflation["with"] < 1.2


# genotypes --------------------------------------------------------------------------------


def test_codes_of_calls_and_dosages():
    copies = np.array([[0, 1, 2, -1, 2], [-1, -1, -1, -1, -1], [2, 2, 2, -1, 1]], np.int8)
    calls = HardCalls.of(copies)
    expected = np.array([[0, 32, 64, 40, 64], [0] * 5, [64, 64, 64, 56, 32]])
    np.testing.assert_array_equal(codes_of(calls), expected)
    np.testing.assert_array_equal(codes_of(calls.in_unit(1 / 255)), expected)
    dosages = Dosages(np.array([[0, 255, 510, 51]], np.uint16), 1 / 255)
    np.testing.assert_array_equal(codes_of(dosages), [[0, 32, 64, 6]])


def test_chromosomes_that_are_left_out():
    assert chromosomes_of(["chr1", "01", "X", "XY", "MT", "Y", "un"]) == ["1", "un", "X"]


def test_dosages_filters_and_regions(study, tmp_path):
    dosages = np.clip(study.complete + 0.2 * np.sin(np.arange(study.n)), 0, 2)
    autosomes = study.contigs != "X"
    arrays = {"samples": study.people, "variants": study.variants[autosomes]}
    found = hs.polygenic(
        dosages[autosomes],
        study.traits[["a"]],
        tmp_path / "b.zarr",
        region=["1", "2"],
        block_size=20,
        min_maf=0.2,
        **arrays,
    )
    frequency = study.complete[autosomes].mean(axis=1) / 2  # of the nearest calls
    passing = (np.minimum(frequency, 1 - frequency) > 0.2) & (study.contigs[autosomes] != "3")
    assert found.dataset.attrs["variants"] == passing.sum()
    assert found.chromosomes == ["1", "2", "3", "X"]
    with found.dataset.load() as dataset:
        prediction = dataset["prediction"].isel(phenotype=0)
        np.testing.assert_array_equal(prediction.sel(contig="3"), prediction.sel(contig="X"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.zarr"]


# what is wrong ----------------------------------------------------------------------------


def test_traits_and_covariates_that_cannot_be_analysed_are_left_out(study, tmp_path, caplog):
    traits = study.traits[["a"]].assign(constant=3.0, nobody=np.nan)
    covariates = study.covariates.assign(same=1.0)
    found = study.background(tmp_path / "b.zarr", ["a"])
    other = hs.polygenic(
        study.genotypes, traits, tmp_path / "c.zarr", mean_covariates=covariates,
        block_size=20, sex_table=study.sex_table,
    )  # fmt: skip
    assert_same(numbers(other), numbers(found))
    assert "constant is left out" in caplog.text
    assert set(other.dataset.attrs["phenotypes_left_out"]) == {"constant", "nobody"}
    with pytest.raises(InputError, match=r"'constant' \(it was left out: phenotype"):
        load_offsets(other.path, ["constant"], study.genotypes.samples, autosomes=22)


def test_too_few_people_for_folds(study, tmp_path):
    few = study.traits[["a"]].where(np.arange(study.n)[:, None] < 9)
    more = study.covariates.assign(x=np.arange(study.n) % 7, z=np.arange(study.n) ** 2)
    with pytest.raises(InputError, match="too few people for cross-validation: of 9 people"):
        hs.polygenic(
            *(study.genotypes, few, tmp_path / "b.zarr"),
            sex_table=study.sex_table,
            mean_covariates=more,
            folds=2,
        )


def test_bad_inputs_are_one_line(study, whole, tmp_path, capsys):
    traits = tmp_path / "t.tsv"
    study.traits.to_csv(traits, sep="\t", na_rep="NA")
    flags = ["--genotypes", study.genotypes.path, "--phenotypes", traits, "-o", tmp_path / "b.zarr"]
    flags += ["--sex-table", study.sex_table]
    (tmp_path / "file").write_text("something")
    for more, words in (
        (["--folds", "1"], "folds must be between 2 and 100, not 1"),
        (["--block-size", "0"], "block_size must be at least 1"),
        (["--min-maf", "0.7"], "min_maf must be between 0 and 0.5"),
        (["--max-missing", "0", "--min-maf", "0.5"], "no variant is left to predict with"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--workers", "2", "--scheduler", "x:1"], "exclude each other"),
        (["--phenotype", "e"], "unknown phenotype 'e'"),
        (["--covariate-mode", "null"], "No such option"),
    ):
        assert main([str(x) for x in ["polygenic", *flags, *more]]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "b.zarr").exists()
    held = [*flags[:5], tmp_path / "file"]
    assert main([str(x) for x in ["polygenic", *held]]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert main(["polygenic", "--phenotypes", str(traits), "-o", "x"]) == 2
    assert "--genotypes is required" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"made otherwise stands there \(by folds\)"):
        study.background(whole.path, folds=4)
    with pytest.raises(InputError, match="not to an object store"):
        study.background("s3://bucket/b.zarr")
    with pytest.raises(TypeError, match="no option 'min_maff'; did you mean 'min_maf'"):
        study.background(tmp_path / "b.zarr", min_maff=0.1)


def test_scans_refuse_what_does_not_fit(study, whole, tmp_path):
    for options, words in (
        ({"rint": True}, "transform them alike"),
        ({"offset_units": "residual-sd"}, "in units of the phenotype"),
        ({"autosomes": 19}, "made for a species of 22 autosomes"),
    ):
        with pytest.raises(InputError, match=words):
            hs.scan(study.genotypes, study.traits, tmp_path / "r", offset=whole,
                    sex_table=study.sex_table, **options)  # fmt: skip
    other = study.traits.rename(columns={"a": "aa"})[["aa"]]
    with pytest.raises(InputError, match="no predictions of phenotype 'aa'; did you mean 'a'"):
        hs.scan(study.genotypes, other, tmp_path / "r", offset=whole, sex_table=study.sex_table)


def test_overwrite_replaces_a_background_and_nothing_else(study, tmp_path):
    first = study.background(tmp_path / "b.zarr", ["d"])
    second = study.background(tmp_path / "b.zarr", ["c"], overwrite=True)
    assert second.phenotypes == ["c"]
    assert first.path == second.path
    with pytest.raises(InputError, match="holds something else"):
        study.background(study.genotypes.path, overwrite=True)


def test_status_and_verify(study, whole, tmp_path):
    copy = study.background(tmp_path / "b.zarr", ["d"])
    runner = CliRunner()
    told = runner.invoke(cli, ["status", str(copy.path), "--json"])
    assert json.loads(told.output)["background"]["blocks_done"] == 12
    assert "whole" in runner.invoke(cli, ["verify", str(copy.path)]).output
    chunk = copy.path / "prediction" / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    assert "prediction" in runner.invoke(cli, ["verify", str(copy.path)]).output
    with pytest.raises(DamagedError, match="make the background again"):
        load_offsets(copy.path, ["d"], study.genotypes.samples, autosomes=22).read("d")
