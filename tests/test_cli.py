"""The command line: bad input in one line, thin commands, help at once, codes and logs."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hlmm_scan import __version__
from hlmm_scan.cli import main
from hlmm_scan.config import ScanConfig, compose, load_config
from hlmm_scan.errors import HlmmScanError, InfrastructureError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.open import SourceOptions
from hlmm_scan.results.export import Export
from hlmm_scan.results.ledger_files import FileJournal
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import task as task_module
from hlmm_scan.scan.executors import available_cores
from hlmm_scan.scan.plan import Shard
from hlmm_scan.scan.state import scan_state
from hlmm_scan.simulate import SimulatedCohort, simulate_cohort

PEOPLE, VARIANTS = 60, 24


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[SimulatedCohort, Path]:
    """60 people, 24 variants on 3 chromosomes; and their genotype dataset."""
    folder = tmp_path_factory.mktemp("small")
    cohort = simulate_cohort(
        folder / "cohort", n_samples=PEOPLE, variants_per_chromosome=8, n_random_effects=6, seed=4
    )
    convert(cohort.beds, folder / "genotypes.zarr", chunk_variants=4)
    return cohort, folder / "genotypes.zarr"


@pytest.fixture
def cohort(small, tmp_path) -> SimpleNamespace:
    """Copies of the simulated files that a test may spoil, and the flags of a scan of them."""
    source, genotypes = small
    folder = shutil.copytree(source.directory, tmp_path / "in")
    (tmp_path / "out").mkdir()
    files = SimpleNamespace(
        folder=folder,
        out=tmp_path / "out",
        genotypes=genotypes,
        phenotypes=folder / "phenotypes.tsv",
        covariates=folder / "covariates.tsv",
        age=folder / "age.tsv",
        random_effects=folder / "random_effects.txt",
    )
    frame = pd.read_csv(files.covariates, sep="\t")
    frame.drop(columns="sex").to_csv(files.age, sep="\t", index=False)
    files.scan = ["scan", "--genotypes", genotypes, "--phenotypes", files.phenotypes]
    files.scan += ["--workers", 1, "-o", files.out / "r.zarr"]
    files.convert = ["convert", *sorted(folder.glob("*.bed")), "-o", files.out / "g.zarr"]
    return files


@pytest.fixture
def refused(cohort, capsys):
    """Return a function that runs a command, expects exit 2, and returns its one line of error."""

    def run_it(*arguments: object) -> str:
        before = sorted(cohort.out.rglob("*"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        lines = err.splitlines()
        assert [line for line in lines if line.startswith("hlmm-scan: ")] == lines[-1:]
        assert sorted(cohort.out.rglob("*")) == before
        return lines[-1].removeprefix("hlmm-scan: ")

    return run_it


# Bad genotype files -------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["bed", "bim", "fam"])
def test_a_missing_file_of_a_fileset(cohort, refused, extension):
    (cohort.folder / f"chr2.{extension}").unlink()
    assert refused(*cohort.convert).startswith(f"{cohort.folder}/chr2.{extension}: no such file")


def test_a_truncated_bed(cohort, refused):
    bed = cohort.folder / "chr1.bed"
    bed.write_bytes(bed.read_bytes()[:-1])
    line = refused(*cohort.convert)
    assert line.startswith(f"{bed}: truncated")
    assert "8 variants of 60 people take 123 bytes" in line
    assert line.endswith("the file has 122")


@pytest.mark.parametrize("size", [0, 2])
def test_a_bed_without_a_header(cohort, refused, size):
    bed = cohort.folder / "chr1.bed"
    bed.write_bytes(bed.read_bytes()[:size])
    assert refused(*cohort.convert).startswith(f"{bed}: {'truncated' if size else 'the file is'}")


@pytest.mark.parametrize("extension", ["bim", "fam"])
def test_a_truncated_bim_or_fam(cohort, refused, extension):
    file = cohort.folder / f"chr3.{extension}"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-1], lines[-1][:4]]))
    assert refused(*cohort.convert).startswith(f"{file}, line {len(lines)}: ")


@pytest.mark.parametrize("change", ["fewer", "more"])
@pytest.mark.parametrize(("extension", "count"), [("bim", 1), ("fam", 5)])
def test_counts_that_disagree_with_the_bed(cohort, refused, extension, count, change):
    file = cohort.folder / f"chr1.{extension}"
    lines = file.read_text().splitlines()
    more = [line.replace("\t", "\tx", 1) for line in lines[:count]]
    file.write_text("\n".join(lines[:-count] if change == "fewer" else lines + more))
    line = refused(*cohort.convert)
    assert line.startswith(f"{cohort.folder}/chr1.bed: ")
    assert "counts disagree" in line


def test_a_bed_that_is_none(cohort, refused):
    bed = cohort.folder / "chr1.bed"
    bed.write_bytes(b"PK" + bed.read_bytes()[2:])
    assert refused(*cohort.convert).startswith(f"{bed}: not a PLINK .bed: it begins with 50 4b")


def test_a_sample_major_bed(cohort, refused):
    bed = cohort.folder / "chr1.bed"
    bed.write_bytes(b"\x6c\x1b\x00" + bed.read_bytes()[3:])
    assert refused(*cohort.convert).startswith(f"{bed}: stored sample-major")


def test_a_sample_that_stands_twice(cohort, refused):
    for fam in cohort.folder.glob("*.fam"):
        lines = fam.read_text().splitlines()
        fam.write_text("\n".join([*lines[:-1], lines[2]]))
    line = refused(*cohort.convert)
    assert "chr1.fam, line 60: sample FID F03, IID I03 stands in line 3 already" in line


def test_variants_of_one_id_are_kept_and_warned_of(cohort, capsys):
    for bim in cohort.folder.glob("*.bim"):
        bim.write_text(bim.read_text().replace("rs2_5\t", "rs1_1\t"))
    assert main([str(a) for a in cohort.convert]) == 0
    assert "1 variants have the id of an earlier one (first: rs1_1" in capsys.readouterr().err
    cohort.scan[2] = cohort.out / "g.zarr"
    assert main([str(a) for a in cohort.scan]) == 0
    ids = [str(i) for i in xr.open_zarr(cohort.out / "r.zarr")["variant_id"].values]
    assert [i for i, name in enumerate(ids) if name == "rs1_1"] == [0, 12]


def test_files_of_another_kind(cohort, refused):
    for name, word in (("x.bgen", "no such file"), ("x.csv", "no such file")):
        assert word in refused("convert", cohort.folder / name, "-o", cohort.out / "g.zarr")


@pytest.mark.parametrize("kind", ["file", "folder", "dataset"])
def test_a_dataset_path_that_holds_something(cohort, refused, kind):
    output = cohort.out / "g.zarr"
    if kind == "file":
        output.write_text("x")
    elif kind == "folder":
        output.mkdir()
    else:
        shutil.copytree(cohort.genotypes, output)
    assert str(output) in refused(*cohort.convert)


# Bad tables ---------------------------------------------------------------------------------


def test_people_of_no_table_in_common(cohort, refused):
    table = cohort.phenotypes.read_text()
    cohort.phenotypes.write_text(re.sub(r"\tI(?=\d)", "\tJ", table))
    line = refused(*cohort.scan)
    assert line.startswith(f"no person of {cohort.phenotypes} is in the genotypes")
    assert "IID 'J01' there and FID 'F01' IID 'I01' here" in line
    cohort.phenotypes.write_text(table)
    cohort.covariates.write_text(re.sub(r"\tI(?=\d)", "\tJ", cohort.covariates.read_text()))
    line = refused(*cohort.scan, "--mean-covariates", cohort.covariates)
    assert line.startswith(f"no person of {cohort.covariates} is in")


def test_a_cell_that_is_no_number_is_named_by_file_line_and_column(cohort, refused):
    frame = pd.read_csv(cohort.phenotypes, sep="\t", dtype=str, na_filter=False)
    frame.loc[7, "trait1"] = "1,5"
    frame.to_csv(cohort.phenotypes, sep="\t", index=False)
    expected = f"{cohort.phenotypes}, line 9, column 'trait1': '1,5' is a number but for its comma"
    assert refused(*cohort.scan).startswith(expected)


def test_a_missing_table(cohort, refused):
    cohort.phenotypes.unlink()
    assert refused(*cohort.scan) == f"{cohort.phenotypes}: no such file"


def test_a_constant_phenotype(cohort, refused):
    frame = pd.read_csv(cohort.phenotypes, sep="\t")
    frame.assign(trait1=3.5).to_csv(cohort.phenotypes, sep="\t", index=False)
    assert (
        refused(*cohort.scan) == "phenotype 'trait1' is constant (3.5) among the 60 people analysed"
    )


@pytest.mark.parametrize("what", ["mean", "variance"])
def test_constant_and_collinear_covariates_are_named(cohort, refused, what):
    flags = [*cohort.scan, f"--{what}-covariates", cohort.covariates]
    frame = pd.read_csv(cohort.covariates, sep="\t")
    frame.assign(batch=1).to_csv(cohort.covariates, sep="\t", index=False)
    line = refused(*flags, "--strict")  # left out otherwise
    assert line.startswith(f"{what} covariate 'batch' is constant among the 60 people")
    frame.assign(months=12 * frame["age"] + 5).to_csv(cohort.covariates, sep="\t", index=False)
    line = refused(*flags)
    assert line.startswith(f"{what} covariates are collinear")
    assert line.endswith("'months' is a combination of 'age'")


def test_fewer_people_than_parameters(cohort, refused):
    frame = pd.read_csv(cohort.phenotypes, sep="\t")
    frame.loc[5:, "trait1"] = np.nan
    frame.to_csv(cohort.phenotypes, sep="\t", index=False, na_rep="NA")
    covariates = ["--mean-covariates", cohort.covariates]
    line = refused(*cohort.scan, *covariates, "--variance-covariates", cohort.covariates)
    assert line.startswith("fewer people than parameters: 5 people are analysed for trait1")


def test_an_unknown_phenotype_with_the_nearest(cohort, refused):
    line = refused(*cohort.scan, "--phenotype", "triat1")
    assert line == f"unknown phenotype 'triat1' in {cohort.phenotypes}; did you mean 'trait1'?"


def test_an_unknown_covariate_with_the_nearest(cohort, refused):
    named = ["--mean-covariate", "agee"]
    known = f"in {cohort.covariates}; did you mean 'age'?"
    for command in (cohort.scan, ["fit", "--phenotypes", cohort.phenotypes]):
        line = refused(*command, "--mean-covariates", cohort.covariates, *named)
        assert line == f"unknown mean covariate 'agee' {known}"
        line = refused(*command, *named)
        assert line.startswith(f"unknown mean covariate 'agee' in {cohort.phenotypes}; it has ")
        variance = ["--mean-covariates", cohort.covariates, "--variance-covariate", "agee"]
        assert refused(*command, *variance) == f"unknown variance covariate 'agee' {known}"


def test_a_scan_of_one_table_is_that_of_several(cohort, capsys):
    covariates = ["--mean-covariates", cohort.covariates, "--variance-covariates", cohort.age]
    several = [str(a) for a in (*cohort.scan, *covariates)]
    assert main(several) == 0
    people = [pd.read_csv(path, sep="\t") for path in (cohort.phenotypes, cohort.covariates)]
    table = cohort.folder / "study.csv"
    people[0].merge(people[1]).assign(note="x1").to_csv(table, index=False, na_rep="NA")
    where = ["scan", "--genotypes", cohort.genotypes, "--phenotypes", table, "--workers", 1]
    columns = ["--phenotype", "trait*", "--mean-covariate", "age", "--mean-covariate", "sex"]
    columns += ["--variance-covariate", "age"]
    one = [str(a) for a in (*where, "-o", cohort.out / "one.zarr", *columns)]
    capsys.readouterr()
    assert main(one) == 0
    assert f"{table}: covariates of the mean 'age' and 'sex'" in capsys.readouterr().err
    stores = [xr.open_zarr(cohort.out / name).load() for name in ("r.zarr", "one.zarr")]
    xr.testing.assert_equal(*stores)
    assert main(one) == 0  # the same columns resume, others do not
    one[one.index("sex")] = "note"
    capsys.readouterr()
    assert main(one) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "mean_covariate: stored ['age', 'sex'], now ['age', 'note']" in told


def test_random_effects_that_are_not_there(cohort, refused):
    absent = cohort.folder / "absent.txt"
    assert "no such file" in refused(*cohort.scan, "--random-effects", absent)
    cohort.random_effects.write_text("rs1_1\nrs9_9\n")
    line = refused(*cohort.scan, "--random-effects", cohort.random_effects)
    assert "rs9_9" in line
    assert "not among its variant ids" in line
    cohort.random_effects.write_text("rs1_1\nrs1_1\n")
    line = refused(*cohort.scan, "--random-effects", cohort.random_effects)
    assert line.startswith(f"{cohort.random_effects}, line 2: variant rs1_1 stands already")


# Bad options and paths ----------------------------------------------------------------------


def test_an_unknown_option_or_command_with_the_nearest(refused):
    assert "'--min-maff'" in (line := refused("scan", "--min-maff", "0.1"))
    assert "--min-maf'" in line
    assert "'scan'" in refused("scna")


def test_an_option_of_the_wrong_kind(cohort, refused):
    assert "'--min-maf'" in refused(*cohort.scan, "--min-maf", "lots")
    assert "'joint', 'null', 'seed'" in refused(*cohort.scan, "--covariate-mode", "jiont")
    assert refused(*cohort.scan, "--min-maf", "0.7").startswith("min_maf must be between 0 and 0.5")
    assert refused(*cohort.scan, "--memory-limit", "1MiB").startswith("one task needs")


def test_what_is_missing_is_asked_for(cohort, refused):
    assert refused("scan", *cohort.scan[3:]).startswith("--genotypes is required")
    assert "IN..." in refused("convert", "-o", cohort.out / "x")


def test_an_unknown_key_of_the_configuration_with_the_nearest(cohort, refused):
    file = cohort.folder / "run.yaml"
    file.write_text("minn_maf: 0.1\n")
    expected = f"{file}: unknown key 'minn_maf'; did you mean 'min_maf'?"
    for command in (["scan", "--config"], ["config", "show", "--config"], ["config", "check"]):
        assert refused(*command, file) == expected


@pytest.mark.parametrize("kind", ["file", "folder", "dataset", "link"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_result_path_that_holds_something_else(cohort, refused, kind, more):
    output = cohort.out / "r.zarr"
    if kind == "file":
        output.write_text("x")
    elif kind == "folder":
        output.mkdir()
    elif kind == "dataset":
        shutil.copytree(cohort.genotypes, output)
    else:
        output.symlink_to(cohort.folder)
    told = refused(*cohort.scan, *more)
    if kind == "link" and more:
        assert told.startswith(f"{output}: a link to {cohort.folder}; name that itself")
    else:
        assert told == f"{output}: holds something else; choose another --output"


def test_a_result_path_in_no_folder(cohort, refused):
    cohort.scan[-1] = cohort.out / "absent" / "r.zarr"
    assert "there is no folder" in refused(*cohort.scan)


def test_stores_that_are_none(cohort, refused, tmp_path):
    for path, words in (
        (tmp_path / "absent", "no such result store"),
        (cohort.genotypes, "not a result store"),
        (cohort.phenotypes, "not a result store"),
    ):
        for command in (["status"], ["finalise"], ["export", "-o", cohort.out / "x.tsv"]):
            assert words in refused(*command, path)
    for path in (tmp_path / "absent", cohort.folder, cohort.phenotypes):
        cohort.scan[2] = path
        assert str(path) in refused(*cohort.scan)


def test_a_log_file_that_cannot_be_written(cohort, refused):
    assert "absent/log" in refused("--log-file", cohort.out / "absent" / "log", *cohort.scan)


# A full disk --------------------------------------------------------------------------------


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_while_converting_or_preparing(cohort, refused, monkeypatch):
    import zarr

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    for arguments in (cohort.convert, cohort.scan):
        line = refused(*arguments)
        assert line.startswith(f"{arguments[-1]}: cannot be written: No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"), [(ResultStore, "write_partition"), (FileJournal, "append")]
)
def test_a_disk_that_fills_during_the_run_leaves_a_store_to_go_on_with(
    cohort, refused, monkeypatch, owner, name
):
    assert main([str(a) for a in [*cohort.scan, "--prepare"]]) == 0
    (cohort.out / "r.zarr" / "run" / "ledger" / "lock").touch()
    monkeypatch.setattr(owner, name, full)
    if owner is ResultStore:
        line = refused(*cohort.scan)
    else:  # the chunks of the first partition are there
        monkeypatch.setattr(task_module, "logger", logging.getLogger("elsewhere"))
        assert main([str(a) for a in cohort.scan]) == 2
        line = f"{cohort.out / 'r.zarr'}: cannot be written: No space left"
    assert line.startswith(f"{cohort.out / 'r.zarr'}: cannot be written: No space left")
    monkeypatch.undo()
    assert scan_state(ResultStore.open(cohort.out / "r.zarr")).partitions_done == 0
    assert main([str(a) for a in cohort.scan]) == 0


def small_disk(folder: Path, script: str, *arguments: object) -> str:
    """Run a shell script with a tmpfs of its own mounted at `folder`; skip where none may be."""
    mount = f"mount -t tmpfs -o size=6m tmpfs '{folder}'"
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare(1) here, so no small disk of our own")
    probe = subprocess.run([unshare, "-rm", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no private mounts here: {probe.stderr.decode().strip()}")
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", f"{mount} && cd '{folder}' && {script}", "sh",
         *map(str, arguments)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.stdout + done.stderr


FILL = "cat /dev/zero >filler 2>/dev/null"


def test_a_disk_that_is_really_full_when_converting_or_preparing(cohort):
    for arguments in (cohort.convert, cohort.scan):
        output = Path(arguments[-1]).name
        text = small_disk(
            cohort.out, f'{FILL}; "$PYTHON" -m hlmm_scan "$@"; echo "code $?"; ls -A', *arguments
        )
        assert "code 2\nfiller\n" in text
        assert "Traceback" not in text
        (line,) = [line for line in text.splitlines() if line.startswith("hlmm-scan: ")]
        assert f"{output}: cannot be written: No space left on device; free some space" in line


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_really_full_during_the_run(cohort, workers):
    cohort.scan[cohort.scan.index("--workers") + 1] = workers
    scan = '"$PYTHON" -m hlmm_scan "$@"'
    steps = [f"{scan} --prepare", FILL, scan, 'echo "code $?"', "rm filler", scan]
    steps += ['echo "then $?"', "ls -A"]
    text = small_disk(cohort.out, "; ".join(steps), *cohort.scan)
    assert "code 2\n" in text
    assert "then 0\nr.zarr\n" in text
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("hlmm-scan: ")]
    assert "r.zarr: cannot be written: No space left on device" in line


# Thin commands ------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """Return a function that replaces another by one that notes its arguments."""
    noted: list[tuple[tuple, dict]] = []

    def replace(target: str, returns: object) -> list[tuple[tuple, dict]]:
        def stand_in(*arguments, **options):
            noted.append((arguments, options))
            return returns

        monkeypatch.setattr(target, stand_in)
        return noted

    return replace


def test_convert_hands_on_what_it_was_given(calls, capsys):
    made = SimpleNamespace(
        n_variants=1234,
        n_samples=56,
        attributes={"variants_with_dosages": 34, "variants_by_source": {"DS": 40, "GT": 1194}},
        contigs=("1", "2", "3", "X"),
        samples=SimpleNamespace(sex=np.repeat([1, 2, 0], [30, 25, 1])),
    )
    noted = calls("hlmm_scan.api.genotypes.convert_files", made)
    flags = ["a.bed", "b.bed", "-o", "g.zarr", "--chunk-variants", "64", "--overwrite"]
    flags += ["--sample", "s.sample", "--bgen-effect-allele", "first", "--workers", "3"]
    flags += ["--id-delim", "_"]
    assert main(["convert", *flags]) == 0
    ((sources, output), options) = noted[0]
    assert (list(sources), output) == ([Path("a.bed"), Path("b.bed")], Path("g.zarr"))
    assert (options["chunk_variants"], options["overwrite"]) == (64, True)
    assert options["options"] == SourceOptions(Path("s.sample"), "first", "_")
    assert (options["workers"], options["pool"]) == (3, None)
    assert capsys.readouterr().out == (
        "g.zarr: 1,234 variants of 56 people; 1,200 of hard calls, 34 of dosages (from DS 40, "
        "GT 1,194); chromosomes 1-3, X; 30 male, 25 female, 1 of unknown sex\n"
    )


def test_simulate_hands_on_what_it_was_given(calls, capsys):
    made = SimulatedCohort(
        Path("d"), (Path("d/c.bed"),), Path("d/p"), Path("d/c"), Path("d/r"), Path("d/t")
    )
    noted = calls("hlmm_scan.simulate.simulate_cohort", made)
    assert main(["simulate", "-o", "d", "--n-samples", "50", "--seed", "7", "--overwrite"]) == 0
    ((directory,), options) = noted[0]
    assert directory == Path("d")
    assert options == {
        "model": "hlmm", "n_samples": 50, "chromosomes": None, "variants_per_chromosome": 1000,
        "n_random_effects": 300, "linkage": 0.0, "seed": 7, "overwrite": True,
    }  # fmt: skip
    assert capsys.readouterr().out.split() == ["d/c.bed", "d/p", "d/c", "d/t", "d/r"]


REQUIRED = ["--genotypes", "g", "--phenotypes", "p", "-o", "o"]
CONFIG = ScanConfig(genotypes=Path("g"), phenotypes=Path("p"), output=Path("o"))


def test_scan_hands_on_every_option(calls, tmp_path):
    done = SimpleNamespace(path="o", attributes={"status_counts": {"ok": 3}})
    noted = calls("hlmm_scan.scan.run.scan", done)
    flags = [
        "--phenotype", "a", "--phenotype", "b", "--mean-covariates", "m",
        "--variance-covariates", "v", "--covariate-mode", "seed", "--random-effects", "r",
        "--method", "score", "--refine-threshold", "1e-5", "--sandwich", "--likelihood-ratio",
        "--no-loco", "--se", "observed", "--min-maf", "0.1", "--min-mac", "3",
        "--max-missing", "0.2", "--missing-value", "-9", "--workers", "2", "--memory-limit", "1GB",
        "--min-info", "0.3", "--hwe", "1e-6",
        "--partition-variants", "8", "--keep", "k", "--rint", "--outlier-sd", "4",
        "--mean-terms", "a:b", "--mean-terms", "a^2", "--min-level-count", "3",
    ]  # fmt: skip
    assert main(["scan", *REQUIRED, *flags, "--overwrite"]) == 0
    assert main(["scan", *REQUIRED, "--retry-failed"]) == 0
    everything = ScanConfig(
        genotypes=Path("g"), phenotypes=Path("p"), output=Path("o"), phenotype=("a", "b"),
        mean_covariates=Path("m"), variance_covariates=Path("v"), covariate_mode="seed",
        method="score", refine_threshold=1e-5, random_effects=Path("r"), loco=False,
        se="observed", sandwich=True, likelihood_ratio=True, min_maf=0.1, min_mac=3.0,
        max_missing=0.2, min_info=0.3, hwe=1e-6, missing_value=("-9",), workers=2,
        memory_limit="1GB", partition_variants=8, keep=Path("k"), rint=True, outlier_sd=4.0,
        mean_terms=("a:b", "a^2"), min_level_count=3,
    )  # fmt: skip
    here = {"tables": {}, "cluster": None}
    all_cores = replace(CONFIG, workers=available_cores())
    assert noted == [
        ((everything,), {**here, "overwrite": True, "retry_failed": False}),
        ((all_cores,), {**here, "overwrite": False, "retry_failed": True}),
    ]


def test_scan_takes_the_configuration_file_and_flags_win(calls, tmp_path):
    noted = calls(
        "hlmm_scan.scan.run.scan", SimpleNamespace(path="o", attributes={"status_counts": {}})
    )
    file = tmp_path / "run.yaml"
    file.write_text("genotypes: g\nphenotypes: p\noutput: o\nmin_maf: 0.2\nmin_mac: 1\n")
    assert main(["scan", "--config", str(file), "--min-maf", "0.3"]) == 0
    ((config,), _) = noted[0]
    assert (config.genotypes, config.min_maf, config.min_mac) == ((tmp_path / "g",), 0.3, 1)


def test_prepare_and_dry_run_call_their_own_function(calls, capsys):
    noted = calls("hlmm_scan.scan.run.prepare", SimpleNamespace(path="o", attributes={}))
    assert main(["scan", *REQUIRED, "--prepare", "--overwrite"]) == 0
    calls("hlmm_scan.scan.run.dry_run", "the plan")
    assert main(["scan", *REQUIRED, "--dry-run"]) == 0
    assert noted == [((CONFIG,), {"overwrite": True}), ((CONFIG,), {})]
    assert capsys.readouterr().out == "o: prepared\nthe plan\n"


def test_export_and_finalise_open_the_store_and_hand_it_on(calls, monkeypatch):
    monkeypatch.setattr(ResultStore, "open", lambda path: f"store {path}")
    noted = calls("hlmm_scan.results.export.export", 5)
    assert main(["export", "r", "-o", "t.gz", "--format", "seed", "--phenotype", "a"]) == 0
    assert main(["export", "r", "-o", "t.parquet"]) == 0
    catalog = ["--format", "gwas-ssf", "--test", "add", "--test", "var", "--metadata", "m.yaml"]
    assert main(["export", "r", "-o", "folder", *catalog]) == 0
    calls("hlmm_scan.scan.completion.finalise", SimpleNamespace(path="r", attributes={}))
    assert main(["finalise", "r"]) == 0
    ssf = Export("gwas-ssf", (), ("add", "var"), Path("m.yaml"))
    assert noted == [
        (("store r", Path("t.gz"), Export("seed", ("a",))), {}),
        (("store r", Path("t.parquet"), Export("parquet")), {}),
        (("store r", Path("folder"), ssf), {}),
        (("store r",), {}),
    ]


def test_shard_opens_the_store_and_says_which_it_is(calls, monkeypatch, capsys):
    monkeypatch.setattr(ResultStore, "open", lambda path: f"store {path}")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    noted = calls("hlmm_scan.scan.shard.run_shard", 1234)
    assert main(["shard", "r", "--count", "8"]) == 0
    assert capsys.readouterr().out == "r: shard 3 of 8: 1,234 partitions, all done\n"
    assert main(["shard", "r", "--count", "8", "--retry-failed"]) == 0
    assert noted == [
        (("store r", Shard(3, 8)), {"retry_failed": False}),
        (("store r", Shard(3, 8)), {"retry_failed": True}),
    ]


# fit ----------------------------------------------------------------------------------------


def test_fit_prints_a_table_json_and_writes_a_file(cohort, capsys):
    flags = ["fit", "--phenotypes", cohort.phenotypes, "--mean-covariates", cohort.covariates]
    flags += ["--random-effects", cohort.random_effects, "--genotypes", cohort.genotypes]
    flags = [str(flag) for flag in flags]
    assert main([*flags, "-o", str(cohort.out / "fit.tsv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("log-likelihood -")
    assert [line.split()[:2] for line in lines[1:]] == [
        ["mean", "intercept"], ["mean", "age"], ["mean", "sex"],
        ["log_variance", "intercept"], ["random", "variance"],
    ]  # fmt: skip
    assert main([*flags, "--json"]) == 0
    fit = json.loads(capsys.readouterr().out)
    table = pd.read_csv(cohort.out / "fit.tsv", sep="\t")
    assert list(table["name"]) == [effect["name"] for effect in fit["effects"]]
    np.testing.assert_allclose(table["estimate"], [e["estimate"] for e in fit["effects"]])


def test_fit_takes_columns_of_one_table(cohort, capsys):
    frames = [pd.read_csv(path, sep="\t") for path in (cohort.phenotypes, cohort.covariates)]
    table = cohort.folder / "study.tsv"
    frames[1].merge(frames[0]).to_csv(table, sep="\t", index=False, na_rep="NA")
    fits = []
    for where in (
        ["--phenotypes", cohort.phenotypes, "--mean-covariates", cohort.covariates],
        ["--phenotypes", table, "--mean-covariate", "age", "--mean-covariate", "s*"],
    ):
        assert main([str(a) for a in ("fit", *where, "--json")]) == 0
        fits.append(json.loads(capsys.readouterr().out))
    assert fits[0] == fits[1]


def test_fit_of_bad_tables_is_one_line(cohort, refused):
    flags = ["fit", "--phenotypes", cohort.phenotypes]
    assert refused(*flags, "--phenotype", "triat1").endswith("did you mean 'trait1'?")
    assert "needs --genotypes" in refused(*flags, "--random-effects", cohort.random_effects)
    assert "cannot be written" in refused(*flags, "-o", cohort.out / "absent" / "fit.tsv")


# config -------------------------------------------------------------------------------------


def test_config_show_prints_what_loads_again_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["config", "show", *REQUIRED, "--min-maf", "0.2", "--phenotype", "a"]) == 0
    file = tmp_path / "elsewhere" / "run.yaml"
    file.parent.mkdir()
    file.write_text(capsys.readouterr().out)
    config = compose(load_config(file), {})
    assert config == ScanConfig(
        genotypes=tmp_path / "g", phenotypes=tmp_path / "p", output=tmp_path / "o",
        min_maf=0.2, phenotype=("a",),
    )  # fmt: skip
    assert main(["config", "show", "--config", str(file)]) == 0
    assert capsys.readouterr().out == file.read_text()


def test_config_check_looks_into_the_files_and_writes_nothing(cohort, refused, capsys):
    file = cohort.folder / "run.yaml"
    file.write_text(
        f"genotypes: {cohort.genotypes}\nphenotypes: phenotypes.tsv\noutput: ../out/r.zarr\n"
    )
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: good\n"
    assert list(cohort.out.iterdir()) == []
    file.write_text(file.read_text() + "phenotype: triat1\n")
    assert "did you mean 'trait1'" in refused("config", "check", file)


# Help, codes, logs --------------------------------------------------------------------------


def test_help_of_every_command_works_and_imports_nothing_heavy():
    code = """
import sys
from hlmm_scan.cli import cli, main

def commands(group, path=()):
    yield list(path)
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))

for path in commands(cli):
    assert main([*path, "--help"]) == 0
    assert main([*path, "-h"]) == 0
    print("HELPED", *path)
heavy = {"numba", "dask", "distributed", "zarr", "xarray", "pandas", "numpy", "scipy"}
print("HEAVY", *sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    helped = [line.split()[1:] for line in lines if line.startswith("HELPED")]
    names = ["convert", "export", "finalise", "fit", "scan", "shard", "simulate", "status"]
    for expected in ([], *([name] for name in names), ["config", "show"], ["config", "check"]):
        assert expected in helped
    assert lines[-1] == "HEAVY"
    assert done.stderr == ""
    for option in ("--genotypes", "-o, --output", "--loco / --no-loco", "--overwrite", "--config"):
        assert option in done.stdout


def test_a_scan_does_not_wait_for_what_comes_after_it():
    """SciPy's distributions alone take half a second; only what reads results needs them."""
    code = """
import sys
import hlmm_scan.api.scanning, hlmm_scan.scan.run, hlmm_scan.scan.worker
print(*sorted({"scipy.stats", "matplotlib", "xarray"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_field_of_the_configuration_is_a_flag_with_help(capsys):
    assert main(["scan", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in (f.name for f in fields(ScanConfig)):
        assert f"--{name.replace('_', '-')} " in text or f"--{name.replace('_', '-')} / " in text
    assert "Default: 0.01." in text


def test_help_is_in_sections_and_what_everybody_needs_comes_first(capsys):
    assert main(["scan", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.removesuffix(":") for line in lines if line[:1].isalpha()]
    assert titles[1:] == [
        "What everybody needs", "Tables and their columns", "People", "Traits", "Covariates",
        "Models and tests", "Variants", "Chromosomes X, Y and MT", "Running",
    ]  # fmt: skip
    needed = lines[lines.index("What everybody needs:") : lines.index("Tables and their columns:")]
    flags = [line.split()[0] for line in needed if line.startswith("  -")]
    assert flags == [
        "--genotypes", "--phenotypes", "-o,", "--phenotype", "--mean-covariates",
        "--variance-covariates",
    ]  # fmt: skip
    running = lines[lines.index("Running:") :]
    assert {"--config", "--workers", "--dry-run", "-h,"} <= {
        line.split()[0] for line in running if line.startswith("  -")
    }
    assert main(["--help"]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.endswith(":")]
    assert titles[:5] == [
        "Options:", "Before the scan:", "The scan:", "Without a test variant:", "After the scan:",
    ]  # fmt: skip


def test_a_shell_completes_options_and_asks_for_files():
    def completed(words: str) -> list[str]:
        environment = {
            "_HLMM_SCAN_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-m", "hlmm_scan"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert "plain,--mean-covariate" in completed("hlmm-scan scan --mean-co")
    assert "file,gen" in completed("hlmm-scan scan --genotypes gen")


@pytest.mark.parametrize("arguments", [[], ["config"]])
def test_no_command_shows_the_help_laid_out(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: hlmm-scan")
    assert len(err.splitlines()) > 8


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_an_error_is_one_line_with_its_code_however_long_its_message(monkeypatch, capsys):
    def lose(*_args, **_kwargs):
        raise InfrastructureError("the cluster\nis lost")

    monkeypatch.setattr("hlmm_scan.scan.run.scan", lose)
    assert main(["scan", *REQUIRED]) == 4
    assert capsys.readouterr().err == "hlmm-scan: the cluster is lost\n"
    assert HlmmScanError("x").exit_code == 1


LEFT_BEHIND = """
import sys
from hlmm_scan.cli import ending

async def read(): ...

left = read()
code = ending._stopped("terminated", 143)
del left
sys.exit(code)
"""


def test_what_an_interrupt_leaves_behind_is_not_complained_of():
    done = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr == "hlmm-scan: terminated\n"


def test_interrupted_is_130_and_a_bug_is_one_line(monkeypatch, capsys):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hlmm_scan.scan.run.scan", interrupt)
    assert main(["scan", *REQUIRED]) == 130
    assert capsys.readouterr().err.strip().startswith("hlmm-scan: interrupted")

    def bug(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("hlmm_scan.scan.run.scan", bug)
    assert main(["scan", *REQUIRED]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hlmm-scan: unexpected error, ZeroDivisionError; -v or --log-file")


def test_the_log_goes_to_a_file_as_well(cohort, capsys):
    log = cohort.out / "run.log"
    assert main(["--log-file", str(log), *(str(a) for a in cohort.scan)]) == 0
    lines = log.read_text().splitlines()
    assert any("INFO hlmm_scan.cohort.cohort: trait1: 60 of 60" in line for line in lines)
    assert "trait1: 60 of 60 people analysed" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(cohort):
    command = [sys.executable, "-m", "hlmm_scan", "config", "show", *REQUIRED]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 0
    assert err == b""
