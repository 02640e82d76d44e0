"""Predictions in regenie's files and in tables, and what they do to a cohort."""

from __future__ import annotations

import gzip
import logging

import numpy as np
import pytest

from hlmm_scan.cohort.cohort import assemble
from hlmm_scan.cohort.loco_files import read_loco
from hlmm_scan.cohort.offsets import EVERYWHERE, load_offsets, residual_deviation
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.samples import SampleIds

SAMPLES = SampleIds(
    np.array(["a", "b", "c", "d"], dtype=object), np.array(["f", "f", "g", "h"], dtype=object)
)
LOCO = "FID_IID f_b f_a g_c x_x\n1 0.5 -1 NA 3\n2 0.25 1e-1 NA 3\n23 0.75 -0.9 NA 4\n"


def write(path, text, packed=False):
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("text", [LOCO, LOCO.replace(" ", "\t"), LOCO.replace("\n1 ", "\n1.0 ")])
def test_a_loco_file_has_a_row_for_every_chromosome(tmp_path, packed, text):
    rows = read_loco(write(tmp_path / "y_1.loco", text, packed), SAMPLES)
    assert list(rows) == ["1", "2", "X"]
    assert np.array_equal(rows["1"], [-1, 0.5, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(rows["X"], [-0.9, 0.75, np.nan, np.nan], equal_nan=True)


@pytest.mark.parametrize("family", ["own", "0", "none"])
def test_people_are_found_whatever_their_families_are_called(tmp_path, family):
    name = {"own": "{0}_{0}", "0": "0_{0}", "none": "{0}"}[family]
    people = " ".join(name.format(k) for k in "dcba")
    path = write(tmp_path / "loco", f"FID_IID {people}\n1 4 3 2 1\n")
    for samples in (SAMPLES, SampleIds(SAMPLES.individual_id)):
        assert read_loco(path, samples)["1"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'FID_IID'"),
        ("IID a\n1 2\n", "line 1: expected 'FID_IID'"),
        ("FID_IID f_a\n", "people but no predictions"),
        ("FID_IID f_a f_b\n1 2 3\n2 3\n", "line 3: expected 3 fields, found 2"),
        ("FID_IID f_a f_b\n1 2 3\n1 3 4\n", "line 3: chromosome 1 is there already"),
        ("FID_IID f_a f_b\n1 2 q\n", r"line 2: 'q' of f_b \(field 3\) is no number"),
        ("FID_IID f_a f_b\n1 inf 1\n", r"line 2: 'inf' of f_a \(field 2\) is no number"),
        ("FID_IID f_a f_a\n1 2 3\n", "line 1: f_a is there twice"),
        ("FID_IID u_u\n1 2\n", "nobody is in the genotypes: the first is u_u, there f_a"),
    ],
)
def test_a_fault_is_named_with_line_and_column(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_loco(write(tmp_path / "loco", text), SAMPLES)


def test_ids_that_run_together_alike_are_refused(tmp_path):
    samples = SampleIds(np.array(["b_c", "c"], dtype=object), np.array(["a", "a_b"], dtype=object))
    with pytest.raises(InputError, match="a_b_c may be more than one person"):
        read_loco(write(tmp_path / "loco", "FID_IID a_b_c\n1 2\n"), samples)


def test_a_file_cut_short_is_an_error(tmp_path):
    path = tmp_path / "loco.gz"
    path.write_bytes(gzip.compress((LOCO * 50).encode())[:60])
    with pytest.raises(InputError, match="damaged or truncated"):
        read_loco(path, SAMPLES)


def load(path, *names, **options):
    return load_offsets(path, names or ("y",), SAMPLES, autosomes=22, **options)


def test_a_list_names_the_files(tmp_path):
    there = tmp_path / "step1"
    there.mkdir()
    write(there / "r_1.loco", LOCO)
    write(there / "r_2.loco.gz", LOCO.replace("-1", "-2"), packed=True)
    # By an absolute path that was moved since, and relative to the list.
    path = write(there / "r_pred.list", "y /elsewhere/r_1.loco\nz r_2.loco.gz\n")
    source = load(path, "z", "y")
    assert source.by_chromosome
    assert source.units == "residual-sd"
    assert source.read("y").rows["1"][0] == -1
    assert source.read("z").rows["1"][0] == -2
    assert source.read("y").available.tolist() == [True, True, False, False]
    assert load(path, "y").fingerprint != source.fingerprint
    offsets = source.read("y")
    assert [offsets.row(c) for c in ("1", "chr2", "02")] == ["1", "2", "2"]
    assert {offsets.row(c) for c in ("X", "chrX", "23", "XY", "MT", "24", "GL000195.1")} == {"X"}
    with pytest.raises(InputError, match=r"no predictions for chromosome 3 .*1, 2, X"):
        offsets.row("3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no predictions in it"),
        ("y\n", "line 1: expected a phenotype and its .loco file"),
        ("y a.loco\ny a.loco\n", "line 2: phenotype 'y' is there already"),
        ("yy a.loco\n", "no predictions of phenotype 'y'.*did you mean 'yy'|it has yy"),
        ("z" * 5000 + " a.loco\n", "no predictions of phenotype 'y'; it has z{70,80}…?$"),
        ("y a.loco\n", "a.loco: No such file"),
    ],
)
def test_a_list_that_does_not_do(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "pred.list", text))


def test_a_table_serves_every_chromosome(tmp_path):
    path = write(tmp_path / "t", "FID IID y z\nf b 1 2\nf a 3 NA\nh d 5 6\n")
    source = load(path, "z", "y")
    assert not source.by_chromosome
    assert source.units == "phenotype"
    offsets = source.read("y")
    assert np.array_equal(offsets.rows[EVERYWHERE], [3, 1, np.nan, 5], equal_nan=True)
    assert offsets.row("7") == EVERYWHERE
    assert source.read("z").available.tolist() == [False, True, False, True]
    with pytest.raises(InputError, match="unknown phenotype of predictions 'w'"):
        load(path, "w")


@pytest.fixture
def cohort(tmp_path):
    rng = np.random.default_rng(3)
    n = 60
    age, p = rng.normal(size=(2, n))
    y = 1e3 * (5 + age + 0.5 * p + rng.normal(size=n))
    names = [f"p{k}" for k in range(n)]
    for name, values in (("y", y), ("age", age), ("p", p)):
        lines = [f"IID {'y' if name == 'p' else name}"]
        lines += [f"{i} {v:.17g}" for i, v in zip(names, values, strict=True)]
        (tmp_path / name).write_text("\n".join(lines))
    samples = SampleIds(np.array(names, dtype=object))
    made = assemble(samples, read_table(tmp_path / "y"), "y", read_table(tmp_path / "age"))
    return made, samples, p, tmp_path / "p"


def test_units_of_regenie_are_the_residual_deviation(cohort):
    cohort, samples, p, path = cohort
    x = cohort.mean_design.matrix
    rest = cohort.y - x @ np.linalg.lstsq(x, cohort.y, rcond=None)[0]
    deviation = np.sqrt(rest @ rest / (len(p) - 2))
    assert np.isclose(residual_deviation(cohort), deviation, rtol=1e-12)
    options = {"phenotypes": ["y"], "samples": samples, "autosomes": 22}
    scaled = load_offsets(path, **options, units="residual-sd").read("y").applied(cohort, "")
    assert np.allclose(scaled.y, cohort.y - deviation * p, rtol=1e-12)
    plain = load_offsets(path, **options).read("y").applied(cohort, "")
    assert np.allclose(plain.y, cohort.y - p, rtol=1e-12)
    assert plain.mean_design is cohort.mean_design


def test_a_prediction_as_covariate(cohort, caplog):
    cohort, samples, p, path = cohort
    options = {"phenotypes": ["y"], "samples": samples, "autosomes": 22, "use": "covariate"}
    fitted = load_offsets(path, **options).read("y").applied(cohort, "")
    assert fitted.mean_design.names == ("intercept", "age", "prediction")
    assert np.allclose(fitted.mean_design.matrix[:, 2], (p - p.mean()) / p.std())
    assert fitted.variance_design is cohort.variance_design
    assert fitted.y is cohort.y
    path.write_text("IID y\n" + "".join(f"p{k} 0\n" for k in range(len(p))))
    with caplog.at_level(logging.WARNING):
        same = load_offsets(path, **options).read("y").applied(cohort, "")
    assert same is cohort
    assert "is constant or a combination" in caplog.text


def test_predictions_that_add_variance_are_warned_of(cohort, caplog):
    cohort, samples, p, path = cohort
    path.write_text("IID y\n" + "".join(f"p{k} {-3e3 * v}\n" for k, v in enumerate(p)))
    options = {"phenotypes": ["y"], "samples": samples, "autosomes": 22}
    with caplog.at_level(logging.WARNING):
        load_offsets(path, **options).read("y").applied(cohort, "")
    assert "varies more without its prediction" in caplog.text
