"""One scan as data: options from a YAML file and from flags, checked and composed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from hlmm_scan import storage
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.shown import one_line, quoted
from hlmm_scan.storage import ObjectPath, Place
from hlmm_scan.yaml_files import read_mapping

DEFAULT_MIN_MAF = 0.01
DEFAULT_MIN_MAC = 20
DEFAULT_MAX_MISSING = 0.05
DEFAULT_MISSING_VALUES = ("NA",)
DEFAULT_NULL_MODE_REFINE_THRESHOLD = 1e-3
DEFAULT_MIN_LEVEL_COUNT = 10
MOST = 2**31 - 1
"""Of anything that is counted."""
SEXES = ("male", "female")
RANKS_OF = ("residuals", "phenotype")
COVARIATE_MODES = ("joint", "null", "seed")
METHODS = ("mle", "score")
INFORMATION = ("expected", "observed")


def _option(default: Any, kind: str, text: str, **extra: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "help": text, **extra})


@dataclass(frozen=True)
class ScanConfig:
    """Everything a scan is asked for.

    Each field is a YAML key and, with dashes, a flag. `kind` says how it is read: path, store
    (a path, or an address in an object store), paths, stores, name, names, choice, number, whole,
    yes_no.
    A single genotype dataset, or table of covariates, may be given without a tuple.

    Raises
    ------
    InputError
        On a value out of range or a required one that is missing.
    """

    genotypes: tuple[Place, ...] = _option(
        (),
        "stores",
        "Genotype dataset made by convert (required); repeatable, as one per chromosome of the "
        "same people.",
    )
    phenotypes: Path | None = _option(None, "path", "Phenotype table (required).")
    output: Place | None = _option(None, "store", "Result store to write (required).", short="-o")
    phenotype: tuple[str, ...] = _option(
        (),
        "names",
        "Column to scan, or several: 'prot_*', prot_1-prot_9; repeatable. Default: all but those "
        "named as covariates.",
    )
    strict: bool | None = _option(
        None,
        "yes_no",
        "Refuse to scan where a phenotype cannot be analysed, or a covariate does not vary among "
        "its people. Default: these are left out, and told.",
    )
    keep: Path | None = _option(
        None, "path", "People to analyse and no others: IID or FID IID, one a line."
    )
    remove: Path | None = _option(None, "path", "People to leave out: IID or FID IID, one a line.")
    only_sex: str | None = _option(
        None, "choice", "Analyse people of this sex only.", choices=SEXES
    )
    log_transform: bool | None = _option(
        None, "yes_no", "Take the natural logarithm of the phenotypes."
    )
    outlier_sd: float | None = _option(
        None,
        "number",
        "Leave people out who are further than this many standard deviations from the mean of "
        "their phenotype; once, after the logarithm and before ranks.",
    )
    rint: bool | None = _option(
        None, "yes_no", "Replace phenotypes by the normal quantiles of their ranks."
    )
    rint_of: str | None = _option(
        None,
        "choice",
        "With --rint, ranks of residuals on the mean covariates, which stay in the scan (default), "
        "or of the phenotype itself.",
        choices=RANKS_OF,
    )
    mean_covariates: tuple[Path, ...] = _option(
        (), "paths", "Table of covariates of the mean; repeatable, columns are joined."
    )
    mean_covariate: tuple[str, ...] = _option(
        (),
        "names",
        "Column that is a covariate of the mean, or several: PC1-PC10, 'batch_*'; repeatable. Of "
        "--mean-covariates (default: all of its columns), or else of --phenotypes.",
    )
    variance_covariates: tuple[Path, ...] = _option(
        (), "paths", "Table of covariates of the log-variance; repeatable."
    )
    variance_covariate: tuple[str, ...] = _option(
        (),
        "names",
        "The same of the log-variance: of --variance-covariates, or else of the table that those "
        "of the mean are in.",
    )
    categorical: tuple[str, ...] = _option(
        (),
        "names",
        "Covariate whose cells are levels although they are numbers; repeatable. Columns of words "
        "are so by themselves.",
    )
    reference: tuple[str, ...] = _option(
        (),
        "names",
        "Reference level of a covariate, as centre=Leeds; repeatable. Default: the most common.",
    )
    min_level_count: int = _option(
        DEFAULT_MIN_LEVEL_COUNT, "whole", "People that a level of its own needs."
    )
    mean_terms: tuple[str, ...] = _option(
        (), "names", "Product of covariates in the mean, as sex:age or age^2; repeatable."
    )
    variance_terms: tuple[str, ...] = _option(
        (), "names", "The same in the log-variance; repeatable."
    )
    covariate_mode: str = _option(
        "joint",
        "choice",
        "joint: refit all covariates at every variant. null: keep them at the fit without a "
        "variant, project the genotype on them, screen as --method score does, and refit what is "
        "below --refine-threshold (0.001 unless given). seed: the 2018 script's shortcut, in its "
        "units.",
        choices=COVARIATE_MODES,
    )
    method: str = _option(
        "mle",
        "choice",
        "mle: maximum likelihood at every variant. score: one step from the null model, many times "
        "faster where there are covariates or random effects; status 'screened'.",
        choices=METHODS,
    )
    refine_threshold: float | None = _option(
        None,
        "number",
        "Refit by maximum likelihood the screened variants of which any test has a smaller p; "
        "status 'refined'. Default: none with --method score.",
    )
    random_effects: Place | None = _option(
        None,
        "store",
        "Variant ids, one a line, or another genotype dataset: random effects (HLMM). "
        "Default: none (HLM).",
    )
    loco: bool | None = _option(
        None,
        "yes_no",
        "Leave the test variant's chromosome out of the random effects. Default: where they span "
        "two chromosomes or more.",
    )
    interaction: str | None = _option(
        None,
        "name",
        "Environment whose product with the genotype is in the mean: a column of the mean or "
        "variance covariates, or of the phenotypes (which is then none of them).",
    )
    interaction_variance: bool | None = _option(
        None, "yes_no", "The environment as covariate of the variance, too."
    )
    offset: Path | None = _option(
        None,
        "path",
        "Predictions from the other chromosomes: regenie's _pred.list, or a table with a column "
        "for every phenotype.",
    )
    offset_as: str = _option(
        "subtract",
        "choice",
        "subtract: take predictions out of the phenotype. covariate: let the mean fit them.",
        choices=("subtract", "covariate"),
    )
    offset_units: str | None = _option(
        None,
        "choice",
        "What a prediction of 1 is: residual-sd, one standard deviation of the phenotype about "
        "its mean covariates; phenotype, one of its units. Default: the first for regenie's "
        "files, the second for tables.",
        choices=("residual-sd", "phenotype"),
    )
    se: str | None = _option(
        None,
        "choice",
        "Information the standard errors come from. Default: expected; in seed mode as in 2018.",
        choices=INFORMATION,
    )
    sandwich: bool | None = _option(
        None, "yes_no", "Also standard errors and tests by the sandwich estimator."
    )
    likelihood_ratio: bool | None = _option(
        None, "yes_no", "Also likelihood-ratio tests of either effect given the other, and of both."
    )
    condition: tuple[str, ...] = _option(
        (),
        "names",
        "Id of a variant whose genotype is a covariate of mean and log-variance; repeatable.",
    )
    condition_list: Path | None = _option(None, "path", "File of such ids, one a line.")
    extract: Path | None = _option(
        None, "path", "Variant ids, one a line: only these get rows in the results."
    )
    exclude: Path | None = _option(
        None, "path", "Variant ids, one a line: these get no rows in the results."
    )
    region: tuple[str, ...] = _option(
        (),
        "names",
        "Chromosome, or chromosome:from-to: only variants there get rows; repeatable.",
    )
    min_maf: float = _option(DEFAULT_MIN_MAF, "number", "Smallest minor allele frequency.")
    min_mac: float = _option(DEFAULT_MIN_MAC, "number", "Smallest minor allele count.")
    max_missing: float = _option(
        DEFAULT_MAX_MISSING, "number", "Largest fraction of missing calls."
    )
    min_info: float | None = _option(
        None,
        "number",
        "Smallest info score of dosages; hard calls have 1. Default: none, scores reported where "
        "there are dosages.",
    )
    hwe: float | None = _option(
        None,
        "number",
        "Smallest p of the exact test of Hardy-Weinberg proportions; 0 reports and takes none. "
        "Default: not tested.",
    )
    missing_value: tuple[str, ...] = _option(
        DEFAULT_MISSING_VALUES,
        "names",
        "Text that means missing in tables, besides NA, NaN and empty; several with commas, as "
        "-9,-3, or repeated.",
    )
    haploid: bool | None = _option(
        None,
        "yes_no",
        "Take males as haploid on X and Y, and everybody in mitochondria. --no-haploid: every "
        "chromosome is diploid.",
    )
    autosomes: int | None = _option(
        None,
        "whole",
        "Autosomes of the species: chromosomes of the next four numbers are X, Y, XY "
        "(pseudo-autosomal) and MT. Default: 22.",
    )
    genome_build: str | None = _option(
        None,
        "name",
        "GRCh37 (hg19) or GRCh38 (hg38): where X and Y are pseudo-autosomal. Needed only where "
        "variants lie there.",
    )
    sex_table: Path | None = _option(
        None, "path", "Table of sex (1 male, 2 female), in place of the genotypes' own."
    )
    sex_on_x: bool | None = _option(
        None, "yes_no", "Sex as covariate of mean and variance on X. Default: yes."
    )
    workers: int | None = _option(
        None, "whole", "Worker processes on this machine; 1 needs no cluster. Default: all cores."
    )
    memory_limit: str | None = _option(
        None, "name", "Memory all workers may use together, as 16GiB. Default: what is available."
    )
    scheduler: str | None = _option(
        None,
        "name",
        "Address of a running Dask scheduler whose workers do the work, as tcp://host:8786.",
    )
    cluster: Path | None = _option(
        None, "path", "YAML file that describes workers in SLURM jobs or Kubernetes pods."
    )
    dashboard: bool | None = _option(
        None,
        "yes_no",
        "Show the work of --workers on a page of Dask's, whose address is logged and which every "
        "account of this machine can look at. Default: no.",
    )
    partition_variants: int | None = _option(
        None, "whole", "Variants per task, a multiple of the genotype chunk. Default: chosen."
    )

    def __post_init__(self) -> None:
        if isinstance(self.genotypes, Path | ObjectPath):
            object.__setattr__(self, "genotypes", (self.genotypes,))
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata["kind"] == "paths" and not isinstance(value, tuple):
                one = (value,) if isinstance(value, Path) else tuple(value or ())
                object.__setattr__(self, f.name, one)
        for name in ("genotypes", "phenotypes", "output"):
            if not getattr(self, name):
                raise InputError(f"--{name} is required (or '{name}:' in the config file)")
        for name, low, high in (("min_maf", 0, 0.5), ("min_mac", 0, None), ("max_missing", 0, 1)):
            value = getattr(self, name)
            if not value >= low or (high is not None and value > high):
                span = f"{low} or more" if high is None else f"between {low} and {high}"
                raise InputError(f"{name} must be {span}, not {value}")
        for name in ("min_info", "hwe"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} must be between 0 and 1, not {value}")
        for name in ("workers", "partition_variants", "min_level_count", "autosomes"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                span = "1 or more" if value < 1 else f"at most {MOST:,}"
                raise InputError(f"{name} must be {span}, not {quoted(value)}")
        for f in fields(self):
            choices = f.metadata.get("choices")
            value = getattr(self, f.name)
            if choices and value is not None and value not in choices:
                hint = nearest(str(value), choices)
                raise InputError(
                    f"{f.name} must be one of {', '.join(choices)}, not {quoted(value)}{hint}"
                )
        if self.covariate_mode == "seed" and (self.condition or self.condition_list):
            raise InputError(
                "condition needs covariate_mode joint or null: in seed mode covariates do not "
                "touch the genotype tested"
            )
        if self.loco is not None and self.random_effects is None:
            raise InputError(
                "loco needs random_effects: without them there is nothing to leave out"
            )
        if self.interaction is None and self.interaction_variance is not None:
            raise InputError("interaction_variance needs interaction")
        if self.interaction is not None:
            for name, wrong in (
                ("random_effects", self.random_effects is not None),
                ("covariate_mode null or seed", self.covariate_mode != "joint"),
                ("method score", self.method != "mle"),
                ("likelihood_ratio", bool(self.likelihood_ratio)),
            ):
                if wrong:
                    raise InputError(f"interaction and {name} do not go together")
        if self.refine_threshold is not None:
            if not 0 <= self.refine_threshold <= 1:
                raise InputError(
                    f"refine_threshold must be between 0 and 1, not {self.refine_threshold}"
                )
            if not self.screens:
                raise InputError(
                    "refine_threshold needs method score or covariate_mode null: otherwise every "
                    "variant is fitted by maximum likelihood"
                )
        elsewhere = [name for name in ("scheduler", "cluster") if getattr(self, name) is not None]
        if len(elsewhere) > 1:
            raise InputError("scheduler and cluster exclude each other: a scan has one of them")
        for name in ("workers", "memory_limit", "dashboard"):
            if elsewhere and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is for workers of this machine; leave it out with {elsewhere[0]}, "
                    "whose workers are what they are"
                )
        if self.dashboard and importlib.util.find_spec("bokeh") is None:
            raise InputError("dashboard needs bokeh; pip install 'hlmm-scan[dashboard]'")
        for name in ("phenotype", "mean_covariate", "variance_covariate"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"{name}: the same name is given twice")
        if len(set(self.genotypes)) < len(self.genotypes):
            raise InputError("genotypes: the same dataset is given twice")

    @property
    def screens(self) -> bool:
        """Whether variants get one step from the null model before anything else."""
        return self.method == "score" or self.covariate_mode == "null"

    @property
    def refine_below(self) -> float:
        """p below which a screened variant is refitted; 0 for none."""
        if self.refine_threshold is not None:
            return self.refine_threshold
        return DEFAULT_NULL_MODE_REFINE_THRESHOLD if self.covariate_mode == "null" else 0.0


def load_config(path: Path) -> dict[str, Any]:
    """Read a YAML file into values for :class:`ScanConfig`.

    Parameters
    ----------
    path : Path
        Relative paths in it are relative to its folder.

    Raises
    ------
    InputError
        If the file is missing, not YAML, holds an unknown key, or a value of the wrong kind.
    """
    content = read_mapping(path)
    known = {f.name: f for f in fields(ScanConfig)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise InputError(
                f"{path}: unknown key '{one_line(str(key), 80)}'{nearest(str(key), known)}"
            )
        if value is not None:
            values[key] = _read(known[key].metadata["kind"], key, value, path)
    return values


def compose(file_values: Mapping[str, Any], flags: Mapping[str, Any]) -> ScanConfig:
    """Return the configuration of a run: a flag that was given overrides the file.

    Parameters
    ----------
    file_values : mapping
        From :func:`load_config`.
    flags : mapping
        None or an empty tuple where a flag was not given.

    Raises
    ------
    InputError
        As :class:`ScanConfig`.
    """
    given = {key: value for key, value in flags.items() if value is not None and value != ()}
    return ScanConfig(**{**file_values, **given})


def to_yaml(config: ScanConfig) -> str:
    """Return the configuration as a YAML file that :func:`load_config` reads."""
    values: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if isinstance(value, Path | ObjectPath):
            value = str(value)
        elif f.metadata["kind"] in ("paths", "stores"):
            value = [str(one) for one in value]
        values[f.name] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(values, sort_keys=False)


def absolute(config: ScanConfig) -> ScanConfig:
    """Return the configuration with every path made absolute: workers may stand elsewhere."""
    paths: dict[str, Any] = {
        f.name: storage.absolute(getattr(config, f.name))
        for f in fields(config)
        if f.metadata["kind"] in ("path", "store") and getattr(config, f.name) is not None
    }
    for f in fields(config):
        if f.metadata["kind"] == "paths":
            paths[f.name] = tuple(storage.absolute(one) for one in getattr(config, f.name))
    paths["genotypes"] = tuple(storage.absolute(place) for place in config.genotypes)
    return replace(config, **paths)


def _read(kind: str, key: str, value: Any, path: Path) -> Any:
    """Check one YAML value against the kind of its key."""

    def wrong(expected: str) -> InputError:
        return InputError(f"{path}: {key} must be {expected}, not {quoted(value)}")

    if kind == "path":
        if not isinstance(value, str):
            raise wrong("a path")
        return path.parent / _expanded(Path(value), key, path)
    if kind == "store":
        if not isinstance(value, str):
            raise wrong("a path")
        where = storage.place(value)
        return path.parent / _expanded(where, key, path) if isinstance(where, Path) else where
    if kind in ("paths", "stores"):
        items = value if isinstance(value, list) else [value]
        if (kind == "stores" and not items) or not all(isinstance(item, str) for item in items):
            raise wrong("a path or a list of paths")
        return tuple(_read(kind.removesuffix("s"), key, item, path) for item in items)
    if kind == "names":
        items = value if isinstance(value, list) else [value]
        # YAML takes a bare no, off or true for a truth value: quotes make it a name.
        if not all(isinstance(i, str | int | float) and not isinstance(i, bool) for i in items):
            raise wrong("a name or a list of names")
        return tuple(str(item) for item in items)
    if kind == "yes_no":
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if kind == "whole":
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong("a whole number")
        return value
    if kind == "number":
        if isinstance(value, str):
            try:  # YAML reads 1e-4, without a point, as text
                return float(value)
            except ValueError:
                raise wrong("a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong("a number")
        return float(value) if isinstance(value, float) else value
    if not isinstance(value, str):
        raise wrong("text")
    return value


def _expanded(path: Path, key: str, file: Path) -> Path:
    """Return a path with the home folder in place of ``~``."""
    if "\0" in str(path):
        raise InputError(f"{file}: {key} must be a path, not {quoted(str(path))}")
    try:
        return path.expanduser()
    except RuntimeError:  # of a user there is not
        raise InputError(f"{file}: {key}: there is no home folder {path.parts[0]}") from None
