"""One scan as data: what a YAML file and flags may say, and what they become."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hlmm_scan.config import ScanConfig, absolute, compose, load_config, to_yaml
from hlmm_scan.errors import InputError
from hlmm_scan.storage import place

REQUIRED = {"genotypes": Path("g"), "phenotypes": Path("p"), "output": Path("o")}

FULL = """\
genotypes: [data/geno.zarr, "s3://bucket/chr2.zarr"]
phenotypes: /abs/pheno.tsv
output: ../results.zarr
phenotype: [height, 2]
keep: keep.txt
remove: remove.txt
only_sex: female
log_transform: true
outlier_sd: 5
rint: true
rint_of: phenotype
strict: true
mean_covariates: [cov.tsv, more.tsv]
variance_covariates: cov.tsv
mean_covariate: [age, PC1-PC10]
variance_covariate: sex
categorical: [batch]
reference: centre=Leeds
min_level_count: 20
mean_terms: [sex:age, age^2]
variance_terms: [sex:age]
covariate_mode: "null"
method: score
refine_threshold: 1e-5
sandwich: true
likelihood_ratio: true
random_effects: random.txt
loco: false
offset: step1_pred.list
offset_as: covariate
offset_units: phenotype
haploid: true
autosomes: 19
genome_build: hg19
sex_table: sex.tsv
sex_on_x: false
se: observed
condition: [rs1]
condition_list: condition.txt
extract: ids.txt
exclude: not.txt
region: ["6:25,000,000-34000000", 7]
min_maf: 0.05
min_mac: 5
max_missing: 0.1
min_info: 0.3
hwe: 1e-6
missing_value: [NA, -9]
workers: 3
memory_limit: 16GiB
partition_variants: 128
dashboard: false
"""


@pytest.fixture
def load(tmp_path):
    """Return a function that reads text as a configuration file."""

    def read(text: str):
        path = tmp_path / "conf" / "run.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return load_config(path)

    return read


def test_every_key_is_read_and_paths_are_relative_to_the_file(load, tmp_path):
    config = compose(load(FULL), {})
    folder = tmp_path / "conf"
    assert config == ScanConfig(
        genotypes=(folder / "data/geno.zarr", place("s3://bucket/chr2.zarr")),
        phenotypes=Path("/abs/pheno.tsv"),
        output=folder / "../results.zarr",
        phenotype=("height", "2"),
        keep=folder / "keep.txt",
        remove=folder / "remove.txt",
        only_sex="female",
        log_transform=True,
        outlier_sd=5,
        rint=True,
        rint_of="phenotype",
        strict=True,
        mean_covariates=(folder / "cov.tsv", folder / "more.tsv"),
        variance_covariates=folder / "cov.tsv",
        mean_covariate=("age", "PC1-PC10"),
        variance_covariate=("sex",),
        categorical=("batch",),
        reference=("centre=Leeds",),
        min_level_count=20,
        mean_terms=("sex:age", "age^2"),
        variance_terms=("sex:age",),
        covariate_mode="null",
        method="score",
        refine_threshold=1e-5,
        sandwich=True,
        likelihood_ratio=True,
        random_effects=folder / "random.txt",
        loco=False,
        offset=folder / "step1_pred.list",
        offset_as="covariate",
        offset_units="phenotype",
        haploid=True,
        autosomes=19,
        genome_build="hg19",
        sex_table=folder / "sex.tsv",
        sex_on_x=False,
        se="observed",
        condition=("rs1",),
        condition_list=folder / "condition.txt",
        extract=folder / "ids.txt",
        exclude=folder / "not.txt",
        region=("6:25,000,000-34000000", "7"),
        min_maf=0.05,
        min_mac=5,
        max_missing=0.1,
        min_info=0.3,
        hwe=1e-6,
        missing_value=("NA", "-9"),
        workers=3,
        memory_limit="16GiB",
        partition_variants=128,
        dashboard=False,
    )
    # In place of workers; with the plain method only.
    elsewhere = {"scheduler", "cluster", "interaction", "interaction_variance"}
    assert {f.name for f in fields(ScanConfig)} == {*yaml.safe_load(FULL), *elsewhere}
    assert absolute(config).output == tmp_path / "results.zarr"


def test_a_scan_runs_here_or_in_one_other_place(load, tmp_path):
    required = "genotypes: g\nphenotypes: p\noutput: o\n"
    config = compose(load(required + "cluster: slurm.yaml"), {})
    assert config.cluster == tmp_path / "conf" / "slurm.yaml"
    config = compose(load(required + "scheduler: tcp://head:8786"), {})
    assert config.scheduler == "tcp://head:8786"
    for more, words in (
        ({"cluster": Path("c")}, "scheduler and cluster exclude each other"),
        ({"workers": 2}, "workers is for workers of this machine; leave it out with scheduler"),
        ({"memory_limit": "1GB"}, "memory_limit is for workers of this machine"),
    ):
        with pytest.raises(InputError, match=words):
            compose(load(required + "scheduler: tcp://head:8786"), more)


def test_when_variants_are_screened_and_below_what_p_they_are_refitted():
    def of(**values):
        config = ScanConfig(**REQUIRED, **values)
        return config.screens, config.refine_below

    assert of() == (False, 0.0)
    assert of(method="score") == (True, 0.0)
    assert of(method="score", refine_threshold=1e-6) == (True, 1e-6)
    assert of(covariate_mode="null") == (True, 1e-3)
    assert of(covariate_mode="null", refine_threshold=0.0) == (True, 0.0)
    with pytest.raises(InputError, match="refine_threshold needs method score or covariate_mode"):
        of(refine_threshold=0.01)
    with pytest.raises(InputError, match="refine_threshold must be between 0 and 1, not 2"):
        of(method="score", refine_threshold=2)


def test_a_home_folder_is_found(load, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("genotypes: ~/geno.zarr")["genotypes"] == (tmp_path / "geno.zarr",)


def test_one_genotype_dataset_or_several_come_back_from_yaml(load, tmp_path):
    for genotypes in (Path("/g"), (Path("/g"), Path("/h"))):
        config = ScanConfig(**{**REQUIRED, "genotypes": genotypes})
        assert config.genotypes == (genotypes if isinstance(genotypes, tuple) else (genotypes,))
        again = compose(load(to_yaml(config)), {})
        assert again.genotypes == config.genotypes
    assert absolute(ScanConfig(**REQUIRED)).genotypes == (Path.cwd() / "g",)
    with pytest.raises(InputError, match="genotypes: the same dataset is given twice"):
        ScanConfig(**{**REQUIRED, "genotypes": (Path("g"), Path("g"))})
    with pytest.raises(InputError, match="genotypes must be a path or a list of paths"):
        load("genotypes: [1, 2]")
    with pytest.raises(InputError, match="--genotypes is required"):
        ScanConfig(**{**REQUIRED, "genotypes": ()})


def test_one_name_needs_no_list_and_nothing_is_the_default(load):
    assert load("phenotype: height\nworkers:\n") == {"phenotype": ("height",)}
    assert load("") == {}
    assert load("# only a comment\n") == {}


def test_a_flag_overrides_the_file_and_an_absent_one_does_not(load):
    values = load(FULL)
    flags = {"min_maf": 0.2, "phenotype": (), "loco": None, "workers": 1, "se": None}
    config = compose(values, flags)
    assert (config.min_maf, config.workers) == (0.2, 1)
    assert (config.phenotype, config.loco, config.se) == (("height", "2"), False, "observed")
    assert compose({**values, "loco": True}, {"loco": False}).loco is False
    assert compose(values, {"min_maf": 0.0}).min_maf == 0.0


def test_what_is_shown_reads_as_the_same_configuration(load):
    for config in (compose(load(FULL), {}), ScanConfig(**REQUIRED)):
        shown = to_yaml(absolute(config))
        assert compose(load(shown), {}) == absolute(config)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("min_maf: small", "min_maf must be a number, not 'small'"),
        ("genotypes: 3", "genotypes must be a path or a list of paths, not 3"),
        ("genotypes: [a, 2]", r"genotypes must be a path or a list of paths, not \['a', 2\]"),
        ("random_effects: [a, b]", r"random_effects must be a path, not \['a', 'b'\]"),
        ("phenotype: {a: b}", "phenotype must be a name or a list of names"),
        ("phenotype: [[a]]", "phenotype must be a name or a list of names"),
        ("missing_value: [NA, no]", r"missing_value must be a name .*, not \['NA', False\]"),
        ("loco: 'yes'", "loco must be true or false, not 'yes'"),
        ("loco: 1", "loco must be true or false, not 1"),
        ("workers: two", "workers must be a whole number, not 'two'"),
        ("workers: 2.0", "workers must be a whole number"),
        ("workers: true", "workers must be a whole number"),
        ("min_maf: lots", "min_maf must be a number, not 'lots'"),
        ("min_maf: true", "min_maf must be a number"),
        ("memory_limit: 16", "memory_limit must be text, not 16"),
        ("covariate_mode: 1", "covariate_mode must be text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_file_and_key(load, line, message):
    with pytest.raises(InputError, match=rf"run\.yaml: {message}"):
        load(line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_maf: 2020-01-01", "min_maf must be a number, not '2020-01-01'"),
        ("workers: " + "9" * 5000, "workers must be a whole number, not '9{79}…"),
        ("9" * 5000 + ": 1", "line 1: not valid YAML"),
        ("phenotype: " + "[" * 20_000, "brackets or lists within one another too deep"),
        ("phenotype: " + "{a: " * 20_000, "brackets or lists within one another too deep"),
        ("phenotype: &a [*a]", "line 1: an anchor within itself"),
        (r'phenotypes: "a\0b"', "phenotypes must be a path"),
    ],
    ids=lambda text: text[:20],
)
def test_what_yaml_allows_and_no_option_means_is_one_short_line(load, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_date_is_the_name_that_was_written(load):
    assert load("phenotype: 2020-01-01") == {"phenotype": ("2020-01-01",)}


def test_an_unknown_key_is_refused_with_the_nearest(load):
    with pytest.raises(InputError, match="unknown key 'min_mac_'; did you mean 'min_mac'"):
        load("min_mac_: 3")
    with pytest.raises(InputError, match="unknown key 'phenotyp'; did you mean 'phenotype"):
        load("phenotyp: x")
    with pytest.raises(InputError, match=r"unknown key '7'$"):
        load("7: x")
    with pytest.raises(InputError, match="unknown key 'overwrite'"):  # a flag only
        load("overwrite: true")


def test_a_file_that_is_no_configuration_is_refused(load, tmp_path):
    with pytest.raises(InputError, match="line 2: not valid YAML"):
        load("min_maf: 0.1\n@x: 1\n")
    with pytest.raises(InputError, match="expected 'key: value' lines"):
        load("- a\n- b\n")
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.yaml.*not a text file"):
        load_config(binary)


@pytest.mark.parametrize("name", REQUIRED)
def test_what_is_required_is_asked_for_by_name(name):
    given = {key: value for key, value in REQUIRED.items() if key != name}
    with pytest.raises(InputError, match=f"--{name} is required"):
        ScanConfig(**given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_maf": -0.1}, "min_maf must be between 0 and 0.5, not -0.1"),
        ({"min_maf": 0.6}, "min_maf must be between"),
        ({"min_maf": math.nan}, "min_maf must be between"),
        ({"min_mac": -1}, "min_mac must be 0 or more"),
        ({"max_missing": 1.1}, "max_missing must be between 0 and 1"),
        ({"workers": 0}, "workers must be 1 or more"),
        ({"partition_variants": 0}, "partition_variants must be 1 or more"),
        (
            {"covariate_mode": "jiont"},
            "must be one of joint, null, seed, not 'jiont'; did you mean",
        ),
        ({"se": "sandwich"}, "se must be one of expected, observed"),
        ({"loco": True}, "loco needs random_effects"),
        ({"loco": False}, "loco needs random_effects"),
        ({"phenotype": ("a", "b", "a")}, "the same name is given twice"),
        ({"mean_covariate": ("a", "a")}, "mean_covariate: the same name is given twice"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        ScanConfig(**REQUIRED, **values)


def test_limits_themselves_are_allowed():
    ScanConfig(**REQUIRED, min_maf=0, min_mac=0, max_missing=0, workers=1)
    ScanConfig(**REQUIRED, min_maf=0.5, max_missing=1)
