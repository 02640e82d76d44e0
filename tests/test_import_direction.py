"""The rule of the rooms: data flow one way, and each heavy library stays in its room."""

from __future__ import annotations

import ast
import graphlib
import sys
from pathlib import Path

import pytest

import hlmm_scan

ROOT = Path(hlmm_scan.__file__).parent
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in ROOT.rglob("*.py")}

# A package imports from itself and from packages further left; the first two know nothing at all.
RANKS = {"models": 0, "genotypes": 0, "cohort": 1, "null": 2, "kernels": 3, "results": 4, "scan": 5}
RANKS |= {"polygenic": 6, "analysis": 6, "meta": 6, "report": 7, "api": 8}
# Everybody may know these.
BASE = {
    "array_types",
    "called",
    "children",
    "errors",
    "outputs",
    "packed",
    "schema",
    "separators",
    "shown",
    "staging",
    "storage",
    "textfiles",
    "yaml_files",
    "hlmm_scan",
}
# Modules at the top, and who may know them; scan/ takes the options of a run from config.
TOP = {"config": {"scan", "polygenic", "api", "cli"}, "simulate": {"cli"}, "logs": {"cli"}}
TOP |= {"signals": {"cli", "scan"}, "surroundings": {"cli"}}
TOP |= {"cli": {"__main__"}, "__main__": set()}
ROOMS = {
    "dask": {"scan"},
    "distributed": {"scan"},
    "click": {"cli"},
    "numba": {"kernels", "genotypes.dosage_coding", "genotypes.packing"},
    "matplotlib": {"report"},
}
INPUT_OUTPUT = {"zarr", "xarray", "dask", "distributed", "pathlib", "os", "io", "pandas"}


def imported(source: str) -> set[str]:
    """Dotted names of all imports, also of those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            # `from hlmm_scan import schema` names a module, elsewhere the module stands before.
            whole = node.module == "hlmm_scan"
            names |= {f"hlmm_scan.{a.name}" if whole else str(node.module) for a in node.names}
    return names


def allowed(module: str, name: str) -> bool:
    """Whether a module of the package, named without ``hlmm_scan``, may import a name."""
    if module == "__init__":
        return True  # it shows what is public, loaded as it is asked for
    room = module.split(".")[0]
    library, _, target = name.partition(".")
    if library != "hlmm_scan":
        pure = room == "kernels" or module in ("null.model", "null.eigen")
        return not (pure and library in INPUT_OUTPUT) and (
            library not in ROOMS or bool(ROOMS[library] & {room, module})
        )
    package = "hlmm_scan" if target in ("", "__version__") else target.split(".")[0]
    if room == "kernels" and package in ("null", "genotypes"):
        # These read no files.
        return target in ("null.model", "null.eigen", "genotypes.packing", "genotypes.blocks")
    if package in BASE:
        return room != "errors"
    if package in TOP:
        return room == package or room in TOP[package]
    return (
        room == package or room in TOP.keys() - {"config"} or RANKS[package] < RANKS.get(room, -1)
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_import_only_from_their_left(module: str) -> None:
    names = imported(MODULES[module].read_text())
    assert not [name for name in sorted(names) if not allowed(module, name)]


def test_modules_of_genotypes_import_each_other_in_no_circle() -> None:
    """Imports inside functions count too: they are how a circle is hidden."""
    own = {m for m in MODULES if m.startswith("genotypes.")}
    needs = {
        m: {name.removeprefix("hlmm_scan.") for name in imported(MODULES[m].read_text())} & own
        for m in own
    }
    order = list(graphlib.TopologicalSorter(needs).static_order())  # CycleError names a circle
    # What reads knows neither who opens it nor who converts.
    last = {m for m in own if m.startswith("genotypes.conversion")} | {"genotypes.in_use"}
    assert {m for m in own if needs[m] & ({"genotypes.open"} | last)} <= last
    assert order.index("genotypes.blocks") < order.index("genotypes.open")


def test_every_room_is_known_to_the_rule() -> None:
    rooms = {module.split(".")[0] for module in MODULES} - {"__init__"}
    assert rooms <= RANKS.keys() | BASE | TOP.keys()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.hlm", "from hlmm_scan.genotypes.packing import unpack"),
        ("cohort.align", "from hlmm_scan.null.model import NullModel"),
        ("kernels.block", "def f():\n    from hlmm_scan.null.store import read_null_model"),
        ("kernels.block", "from hlmm_scan.genotypes.dataset import GenotypeDataset"),
        ("null.model", "import zarr"),
        ("null.model", "from pathlib import Path"),
        ("null.fit", "import numba"),
        ("results.store", "from hlmm_scan.config import ScanConfig"),
        ("config", "from hlmm_scan.scan.plan import Plan"),
        ("config", "from hlmm_scan import cohort"),
        ("genotypes.plink", "from numba import njit"),
        ("results.export", "import dask.array"),
        ("scan.run", "import click"),
        ("schema", "from hlmm_scan.models import HLM"),
        ("simulate", "import matplotlib.pyplot"),
        ("scan.run", "from hlmm_scan.api.scanning import scan"),
        ("api.scanning", "import click"),
        ("api.genotypes", "import dask.array"),
    ],
)
def test_the_rule_sees_a_breach(module: str, source: str) -> None:
    assert not all(allowed(module, name) for name in imported(source))


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    names = {part for module in MODULES for part in module.split(".")} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names
