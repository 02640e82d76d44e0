"""How much memory a scan may plan with: what its job or container is granted."""

from __future__ import annotations

import psutil
import pytest

from hlmm_scan.config import ScanConfig
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.scan import memory, run
from hlmm_scan.scan.plan import Plan
from hlmm_scan.simulate import simulate_cohort

MIB = 1 << 20


@pytest.fixture
def granted(tmp_path, monkeypatch):
    """Make control groups; returns what they leave."""

    def make(own: str, files: dict[str, str]) -> int:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
        return memory.available_bytes()

    return make


def group(folder: str, limit: str, used: int, files: int = 0) -> dict[str, str]:
    """The files of a group of version 2."""
    return {
        f"{folder}memory.max": limit,
        f"{folder}memory.current": str(used),
        f"{folder}memory.stat": f"anon 5\ninactive_file {files}\n",
    }


def test_without_groups_it_is_the_machines(granted):
    assert granted("", {}) == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    assert granted("0::/x\n", group("x/", "max\n", 5)) > 100 * MIB


def test_the_tightest_group_counts_and_files_in_its_cache_do_not(granted):
    files = group("", "max", 9 * MIB) | group("job/", str(100 * MIB), 70 * MIB, 20 * MIB)
    assert granted("0::/job/step\n", files | group("job/step/", "max", 5)) == 50 * MIB
    tighter = files | group("job/step/", str(40 * MIB), 10 * MIB)
    assert granted("0::/job/step\n", tighter) == 30 * MIB


def test_a_container_finds_its_group_at_the_root(granted):
    assert granted("0::/../../pods/abc\n", group("", str(64 * MIB), 4 * MIB)) == 60 * MIB


def test_groups_of_version_1(granted):
    files = {
        "memory/job/memory.limit_in_bytes": str(100 * MIB),
        "memory/job/memory.usage_in_bytes": str(70 * MIB),
        "memory/job/memory.stat": f"cache 1\ntotal_inactive_file {20 * MIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "5",
        "memory/memory.stat": "",
    }
    assert granted("9:name=systemd:/\n4:memory:/job\n1:cpu:/\n0::/\n", files) == 50 * MIB


def test_a_group_that_is_over_its_limit_leaves_nothing(granted):
    assert granted("0::/\n", group("", str(MIB), 2 * MIB)) == 0


def test_alleles_of_millions_of_letters_are_in_the_plan(tmp_path):
    cohort = simulate_cohort(
        tmp_path / "in", n_samples=60, variants_per_chromosome=8, n_random_effects=6, seed=4
    )

    def task_bytes(name: str) -> int:
        convert(cohort.beds, tmp_path / f"{name}.g")
        store = run.prepare(
            ScanConfig(tmp_path / f"{name}.g", cohort.phenotypes, tmp_path / f"{name}.r")
        )
        return Plan.from_json(store.plan).task_bytes

    plain = task_bytes("plain")
    bim = cohort.beds[0].with_suffix(".bim")
    first, *others = bim.read_text().splitlines()
    long = "\t".join([*first.split("\t")[:-1], "A" * 3_000_000])
    bim.write_text("\n".join([long, *others, ""]))
    assert task_bytes("long") - plain == pytest.approx(3 * 3_000_000, rel=0.01)
