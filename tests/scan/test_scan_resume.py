"""Running again: what goes on, what is refused, what failed and is retried, what is replaced."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scan_helpers import ShuffledExecutor, assert_identical

from hlmm_scan.cli import main
from hlmm_scan.errors import IncompleteError, InputError, StoreHeldError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.results import sealed
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan import chunks as chunk_module
from hlmm_scan.scan import completion, null_models, run
from hlmm_scan.scan import task as task_module
from hlmm_scan.scan.concurrency import choose_workers
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.scan.inputs import read_inputs
from hlmm_scan.scan.progress import Progress
from hlmm_scan.scan.state import scan_state
from hlmm_scan.schema import Status


def copy_of(bench, tmp_path: Path, kind: str = "hlm") -> Path:
    """A complete store that a test may damage."""
    return Path(shutil.copytree(bench.reference(kind), tmp_path / "copy.zarr"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The same run or another one ---------------------------------------------------------------

OFFSETS = ["IID trait1 a/b count", *(f"I{k:03d} 0.1 0.2 {k}" for k in range(1, 151))]

CHANGES = {
    "phenotype": ("hlm", {"phenotype": ("trait1",)}),
    "mean_covariates": ("joint", {"mean_covariates": None}),
    "variance_covariates": ("joint", {"variance_covariates": None}),
    "mean_covariate": ("joint", {"mean_covariate": ("age",)}),
    "variance_covariate": ("joint", {"variance_covariate": ("age",)}),
    "keep": ("hlm", {"keep": ["I001", "I002"]}),
    "remove": ("hlm", {"remove": ["I001"]}),
    "only_sex": ("hlm", {"only_sex": "male"}),
    "log_transform": ("hlm", {"log_transform": True}),
    "outlier_sd": ("hlm", {"outlier_sd": 4.0}),
    "rint": ("hlm", {"rint": True}),
    "categorical": ("joint", {"categorical": ("sex",)}),
    "reference": ("joint", {"categorical": ("sex",), "reference": ("sex=2",)}),
    "min_level_count": ("joint", {"min_level_count": 5}),
    "mean_terms": ("joint", {"mean_terms": ("sex:age",)}),
    "variance_terms": ("joint", {"variance_terms": ("age^2",)}),
    "condition": ("hlm", {"condition": ("rs1_3",)}),
    "covariate_mode": ("joint", {"covariate_mode": "seed"}),
    "random_effects": ("hlmm", {"random_effects": None}),
    "loco": ("hlmm", {"loco": False}),
    "se": ("hlm", {"se": "observed"}),
    "screen": ("joint", {"method": "score"}),
    "refine_below": ("joint", {"covariate_mode": "null", "refine_threshold": 0.01}),
    "sandwich": ("hlm", {"sandwich": True}),
    "likelihood_ratio": ("hlm", {"likelihood_ratio": True}),
    "min_maf": ("hlm", {"min_maf": 0.05}),
    "min_mac": ("hlm", {"min_mac": 21}),
    "max_missing": ("hlm", {"max_missing": 0.5}),
    "interaction": ("joint", {"interaction": "age"}),
    "interaction_variance": ("joint", {"interaction": "age", "interaction_variance": True}),
    "min_info": ("hlm", {"min_info": 0.3}),
    "hwe": ("hlm", {"hwe": 1e-6}),
    "missing_value": ("hlm", {"missing_value": ("NA", "-9")}),
    # With two autosomes the third chromosome is X.
    **dict.fromkeys(("haploid", "autosomes", "sex", "sex_on_x"), ("hlm", {"autosomes": 2})),
    **dict.fromkeys(("offset", "offset_as", "offset_units"), ("hlm", {"offset": OFFSETS})),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_option_is_refused_and_named(bench, tmp_path, key):
    kind, changes = CHANGES[key]
    for option, lines in changes.items():
        if isinstance(lines, list):  # the lines of a file
            (tmp_path / option).write_text("\n".join(lines))
            changes = {option: tmp_path / option}
    reference = bench.reference(kind)
    before = tree(reference)
    with pytest.raises(InputError, match=rf"made by another run \((.*; )?{key}: stored .*, now"):
        run.prepare(bench.config(reference, kind, **changes))
    assert tree(reference) == before


def test_every_option_that_numbers_depend_on_is_among_the_changes_tried(bench):
    inputs = read_inputs(bench.config(bench.folder / "never", "hlmm"))
    derived = {"hlmm_scan", "format", "model", "genotypes", "phenotypes"}
    derived |= {"extract", "exclude", "region"}  # tried by test_scan_selected
    derived |= {"genome_build"}  # needs a human X
    assert set(inputs.parameters()) - derived == set(CHANGES)


def test_changed_files_are_refused_and_named(bench, tmp_path):
    reference = bench.reference("hlmm")
    config = bench.config(reference, "hlmm")

    def refused(key, **changes):
        with pytest.raises(InputError, match=rf"made by another run \(.*{key}: stored"):
            run.prepare(replace(config, **changes))

    phenotypes = tmp_path / "phenotypes.tsv"
    phenotypes.write_text(bench.phenotypes.read_text().replace("NA", "1.5", 1))
    refused("phenotypes", phenotypes=phenotypes)

    ids = bench.cohort.random_effects.read_text().split()
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("\n".join(ids[:-1]))
    refused("random_effects", random_effects=fewer)

    two = convert(bench.cohort.beds[:2], tmp_path / "two.zarr", chunk_variants=12)
    here = tmp_path / "here.txt"
    here.write_text("\n".join(i for i in ids if not i.startswith("rs3")))
    refused("genotypes", genotypes=two.path, random_effects=here)


def test_how_it_runs_may_change_between_runs(bench, tmp_path):
    config = bench.config(tmp_path / "r")
    with pytest.raises(KeyboardInterrupt):
        run.scan(config, executor=ShuffledExecutor(seed=1, stop_after=5))
    elsewhere = tmp_path / "moved.tsv"
    shutil.copy(bench.phenotypes, elsewhere)
    changed = replace(
        config, workers=2, memory_limit="64GiB", partition_variants=24, phenotypes=elsewhere
    )
    run.scan(changed, executor=SerialExecutor())
    assert_identical(tmp_path / "r", bench.reference("hlm"))


def test_a_complete_scan_run_again_does_nothing(bench):
    reference = bench.reference("hlm")
    before = tree(reference)
    executor = ShuffledExecutor(seed=1)
    run.scan(bench.config(reference), executor=executor)
    assert executor.ran == []
    assert tree(reference) == before


def test_what_a_run_killed_while_preparing_left_is_swept_also_on_resume(bench, tmp_path):
    store = copy_of(bench, tmp_path)
    left = tmp_path / ".copy.zarr.x7.partial"
    left.mkdir()
    (left / "lock").touch()
    run.prepare(bench.config(store))
    assert [p.name for p in tmp_path.iterdir()] == ["copy.zarr"]


# Prepare, dry run, overwrite ----------------------------------------------------------------


def test_prepare_makes_a_store_that_opens_and_scan_fills_it(bench, tmp_path, capsys):
    flags = ["scan", "--genotypes", str(bench.genotypes()), "--phenotypes", str(bench.phenotypes)]
    flags += ["-o", str(tmp_path / "r"), "--workers", "1"]
    assert main([*flags, "--prepare"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'r'}: prepared\n"
    assert (xr.open_zarr(tmp_path / "r")["status"] == Status.PENDING).all()
    state = scan_state(ResultStore.open(tmp_path / "r"))
    assert (state.partitions_done, state.rate, state.seconds_left) == (0, 0.0, None)
    assert main(flags) == 0
    assert f"{tmp_path / 'r'}: complete\n  ok" in capsys.readouterr().out
    assert_identical(tmp_path / "r", bench.reference("hlm"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(bench, tmp_path, capsys):
    flags = ["scan", "--genotypes", str(bench.genotypes()), "--phenotypes", str(bench.phenotypes)]
    assert main([*flags, "-o", str(tmp_path / "r"), "--workers", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    state = scan_state(ResultStore.open(bench.reference("hlm")))
    assert f"partitions         {state.partitions} of 12 variants × 1 phenotype\n" in out
    assert "tests              216 (72 variants × 3 phenotypes)\n" in out
    assert list(tmp_path.iterdir()) == []


def test_overwrite_starts_anew_with_other_options(bench, tmp_path):
    store = copy_of(bench, tmp_path)
    old = ResultStore.open(store).attributes["run_id"]
    config = bench.config(store, min_maf=0.4)
    with pytest.raises(InputError, match="min_maf"):
        run.scan(config, executor=SerialExecutor())
    new = run.scan(config, overwrite=True, executor=SerialExecutor())
    assert new.attributes["run_id"] != old
    assert new.attributes["status_counts"][Status.LOW_MAF.label] > 20
    assert [p.name for p in tmp_path.iterdir()] == ["copy.zarr"]


def test_a_new_store_that_cannot_be_made_leaves_the_old_one(bench, tmp_path, monkeypatch):
    store = copy_of(bench, tmp_path)
    before = tree(store)

    def fail(*_args, **_kwargs):
        raise InputError("trait1: its null model could not be fitted")

    monkeypatch.setattr(null_models, "fit_null", fail)
    with pytest.raises(InputError, match="null model"):
        run.prepare(bench.config(store), overwrite=True)
    before.pop("run/ledger/lock")
    after = tree(store)
    after.pop("run/ledger/lock")
    assert after == before
    assert [p.name for p in tmp_path.iterdir()] == ["copy.zarr"]


def test_overwrite_spares_whatever_is_no_result_store(bench, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("text")
    empty = tmp_path / "empty"
    empty.mkdir()
    for output in (folder, file, empty, bench.genotypes()):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="holds something else"):
                run.prepare(bench.config(output), overwrite=overwrite)
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert file.read_text() == "text"


def test_a_store_in_use_is_neither_run_nor_overwritten(bench, tmp_path):
    store = copy_of(bench, tmp_path)
    config = bench.config(store)
    for journal in (store / "run" / "ledger").glob("*.journal"):
        journal.unlink()
    with ResultStore.open(store).ledger.lock():
        with pytest.raises(StoreHeldError, match="another run holds this store"):
            run.scan(config, executor=SerialExecutor())
        with pytest.raises(StoreHeldError):
            run.scan(config, overwrite=True, executor=SerialExecutor())
    run.scan(config, executor=SerialExecutor())
    assert_identical(store, bench.reference("hlm"))


# Unfinished, failed, damaged ----------------------------------------------------------------


def test_finalise_before_the_end_lists_what_is_missing(bench, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run.scan(bench.config(tmp_path / "r"), executor=ShuffledExecutor(seed=1, stop_after=14))
    state = scan_state(ResultStore.open(tmp_path / "r"))
    assert main(["finalise", str(tmp_path / "r")]) == 1
    named = ", ".join(str(index) for index in state.missing)
    assert capsys.readouterr().err == (
        f"hlmm-scan: {tmp_path / 'r'}: {len(state.missing)} of 18 partitions are missing "
        f"({named}); run the same scan again to finish it\n"
    )
    assert ResultStore.open(tmp_path / "r").attributes["run_status"] == "incomplete"
    run.scan(bench.config(tmp_path / "r"), executor=SerialExecutor())
    assert main(["finalise", str(tmp_path / "r")]) == 0


def test_a_long_list_of_missing_partitions_is_cut(bench, tmp_path):
    store = run.prepare(bench.config(tmp_path / "r"))
    with pytest.raises(IncompleteError, match=r"18 of 18 .* \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …\)"):
        completion.finalise(store)


def test_a_failing_partition_is_recorded_the_others_go_on_and_it_stands_until_retried(
    bench, tmp_path, monkeypatch, capsys
):
    flags = ["scan", "--genotypes", str(bench.genotypes()), "--phenotypes", str(bench.phenotypes)]
    flags += ["-o", str(tmp_path / "r"), "--workers", "1"]
    fit_block, calls = chunk_module.fit_block, []

    def fail_in_the_eighth(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 8:  # six blocks of the first phenotype, then two of the second
            raise ValueError("a message\nof two lines")
        return fit_block(*arguments, **options)

    monkeypatch.setattr(chunk_module, "fit_block", fail_in_the_eighth)
    assert main(flags) == 1
    (last,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("hlmm-scan: ")
    ]
    assert last == (
        f"hlmm-scan: {tmp_path / 'r'}: 1 of 18 partitions failed (4); the first with: "
        "ValueError: a message of two lines; run the same scan with --retry-failed to do these "
        "again"
    )
    assert len(calls) == 18
    assert main(["status", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "partitions  17 done, 0 missing, 1 failed of 18" in out
    assert "failed      partition 4: ValueError: a message" in out
    assert "--retry-failed does these again" in out
    rows = xr.open_zarr(tmp_path / "r").isel(phenotype=1, variant=slice(12, 24))
    assert (rows["status"] == Status.TASK_FAILED).all()
    assert np.isnan(rows["add"]).all()
    assert int((xr.open_zarr(tmp_path / "r")["status"] == Status.TASK_FAILED).sum()) == 12

    monkeypatch.setattr(chunk_module, "fit_block", lambda *_, **__: pytest.fail("tried again"))
    assert main(flags) == 1
    assert "1 of 18 partitions failed (4)" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*flags, "--retry-failed"]) == 0
    assert_identical(tmp_path / "r", bench.reference("hlm"))
    assert scan_state(ResultStore.open(tmp_path / "r")).failed == {}


def test_a_dataset_that_changed_under_a_prepared_scan_stops_it(bench, tmp_path):
    genotypes = tmp_path / "g.zarr"
    convert(bench.cohort.beds, genotypes, chunk_variants=12)
    store = run.prepare(bench.config(tmp_path / "r", genotypes=genotypes))
    convert(bench.cohort.beds[:2], genotypes, chunk_variants=12, overwrite=True)
    with pytest.raises(InputError, match="changed since the scan was prepared"):
        run.run(store, SerialExecutor())
    assert scan_state(store).partitions_done == 0


def test_a_genotype_chunk_that_vanished_fails_its_partitions_until_it_is_restored(bench, tmp_path):
    genotypes = tmp_path / "g.zarr"
    convert(bench.cohort.beds, genotypes, chunk_variants=12)
    (chunk,) = (genotypes / "call_genotype_packed" / "c" / "5").iterdir()
    content = chunk.read_bytes()
    chunk.unlink()
    config = bench.config(tmp_path / "r", genotypes=genotypes)
    missing = r"3 of 18 .* \(15, 16, 17\).* chunk call_genotype_packed/c/5/0 is missing"
    with pytest.raises(IncompleteError, match=missing):
        run.scan(config, executor=SerialExecutor())
    assert scan_state(ResultStore.open(tmp_path / "r")).partitions_done == 15
    chunk.write_bytes(content)
    run.scan(config, retry_failed=True, executor=SerialExecutor())
    assert_identical(tmp_path / "r", bench.reference("hlm"))


def test_verify_names_partitions_that_are_not_as_recorded(bench, tmp_path, capsys):
    store = copy_of(bench, tmp_path)
    assert main(["status", str(store), "--verify"]) == 0
    assert "every value is as written" in capsys.readouterr().out
    plan = run.Plan.from_json(ResultStore.open(store).plan)
    gone, cut, changed = plan.partition(3), plan.partition(10), plan.partition(17)

    def chunk(name, partition):
        return store / name / "c" / str(partition.phenotypes[0]) / str(partition.start // 12)

    chunk("var", gone).unlink()
    content = chunk("add", cut).read_bytes()
    chunk("add", cut).write_bytes(content[: len(content) // 2])
    ResultStore.open(store).array("n")[changed.phenotypes[0], changed.start] += 1
    assert main(["status", str(store), "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged"] == [3, 10, 17]


def test_status_as_json_adds_up(bench, capsys):
    assert main(["status", str(bench.reference("joint")), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert state["complete"] is True
    assert state["partitions_done"] == state["partitions"] == 18
    assert state["tests_done"] == state["tests"] == sum(state["statuses"].values()) == 216
    assert (state["missing"], state["failed"]) == ([], {})
    status = xr.open_zarr(bench.reference("joint"))["status"].values
    labels, counts = np.unique(status, return_counts=True)
    assert state["statuses"] == {
        Status(int(s)).label: int(c) for s, c in zip(labels, counts, strict=True)
    }


def test_a_completion_mark_that_cannot_be_written_is_one_line(bench, tmp_path, monkeypatch, capsys):
    run.run(run.prepare(bench.config(tmp_path / "r")), SerialExecutor())

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed, "write_durably", full)
    assert main(["finalise", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"hlmm-scan: {tmp_path / 'r'}: cannot be written: No space left")
    assert err.count("\n") == 1
    monkeypatch.undo()
    assert main(["finalise", str(tmp_path / "r")]) == 0


# Memory and progress ------------------------------------------------------------------------


def test_memory_limits_the_workers_and_a_task_that_does_not_fit_is_refused(bench, tmp_path, caplog):
    config = bench.config(tmp_path / "r", workers=8)
    assert choose_workers(replace(config, memory_limit="8GB"), 10**9) == 8
    with caplog.at_level(logging.WARNING, "hlmm_scan"):
        assert choose_workers(replace(config, memory_limit="3.5GB"), 10**9) == 3
    assert "3 instead of 8 workers" in caplog.text
    assert choose_workers(config, 1) == 8
    for limit, message in (("1MiB", "one task needs"), ("plenty", "must be a size as 16GiB")):
        with pytest.raises(InputError, match=message):
            run.prepare(replace(config, memory_limit=limit))
    assert list(tmp_path.iterdir()) == []


def test_progress_says_share_rate_and_time_left():
    progress = Progress(total=2000, unit="tests", done=500)
    progress.advance(500)
    assert progress.line(elapsed=10) == "1,000 of 2,000 tests (50.0%), 50 tests/s, 00:20 left"
    progress(1500, 2000)
    assert progress.done == 1500
    assert Progress(10, "tests").line(1.0) == "0 of 10 tests (0.0%)"


def test_progress_without_a_terminal_is_a_line_now_and_then(caplog, monkeypatch):
    monkeypatch.setattr("hlmm_scan.scan.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, "hlmm_scan"), Progress(3, "tests") as progress:
        for _ in range(3):
            progress.advance(1)
    assert [r.message.split(",")[0].split(" (")[0] for r in caplog.records] == [
        "1 of 3 tests",
        "2 of 3 tests",
    ]


# Interrupts ---------------------------------------------------------------------------------


class Finalised:
    """Is interrupted where Python can only print the exception."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


class InterruptedExecutor:
    """Runs tasks; the third is interrupted in a finaliser."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def run(self, tasks):
        for count, task in enumerate(tasks, start=1):
            if count == 3:
                Finalised(self.error)
            yield task_module.run_partition(task)


def test_an_interrupt_that_arrives_in_a_finaliser_is_heard_after_the_task(bench, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run.scan(bench.config(tmp_path / "r"), executor=InterruptedExecutor(KeyboardInterrupt))
    assert scan_state(ResultStore.open(tmp_path / "r")).partitions_done == 3
    assert "KeyboardInterrupt" not in capsys.readouterr().err


def test_another_error_in_a_finaliser_is_reported_as_ever(bench, tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: reported.append(unraisable))
    run.scan(bench.config(tmp_path / "r"), executor=InterruptedExecutor(ValueError))
    assert [unraisable.exc_type for unraisable in reported] == [ValueError]
