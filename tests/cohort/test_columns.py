"""Columns by name, range and pattern; one table or several that hold a whole study."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest

from hlmm_scan.cohort.columns import chosen, named
from hlmm_scan.cohort.study import StudyColumns, read_study
from hlmm_scan.errors import InputError

COLUMNS = ["age", "PC10", "PC2", "PC1", "PC03", "prot_b", "prot_a", "IL-6", "IL-7", "a*c", "abc"]


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        (["age"], ["age"]),
        (["PC1-PC3"], ["PC1", "PC2", "PC03"]),  # by number, whatever the order of the table
        (["PC3-PC10", "PC2"], ["PC03", "PC10", "PC2"]),
        (["prot_*"], ["prot_b", "prot_a"]),  # the table's order
        (["PC?"], ["PC2", "PC1"]),
        (["IL-6"], ["IL-6"]),  # a name comes before what it could stand for
        (["IL-6-IL-7"], ["IL-6", "IL-7"]),
        (["a*c"], ["a*c"]),
        (["a?c"], ["a*c", "abc"]),
        (["prot_a", "prot_*", "prot_a"], ["prot_a", "prot_b"]),  # each column once
        (["prot_[ab]", "PC2-PC1", "Age", "PC1-10", ""], []),
        (["*"], COLUMNS),
    ],
)
def test_names_ranges_and_patterns(wishes, expected):
    assert named(wishes, COLUMNS) == expected


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("agge", "unknown covariate 'agge' in t.tsv; did you mean 'age'?"),
        ("AGE", "unknown covariate 'AGE' in t.tsv; did you mean 'age'?"),
        ("PC1-PC4", "covariate 'PC1-PC4': no column 'PC4' in t.tsv"),
        ("PC1-PC999999999", "covariate 'PC1-PC999999999': no column 'PC4' in t.tsv"),
        ("age, PC1", "unknown covariate 'age, PC1' in t.tsv; repeat the option for each column"),
        ("zz*", "it has age, PC10, PC2, PC1, PC03, prot_b, prot_a, IL-6 and 3 more"),
    ],
)
def test_what_names_no_column_is_told_with_the_nearest(wish, message):
    with pytest.raises(InputError) as told:
        chosen([wish], COLUMNS, "covariate", "t.tsv")
    assert message in str(told.value)


@pytest.fixture
def one(tmp_path) -> Path:
    """A table with everything in it, also with what is no number."""
    path = tmp_path / "study.tsv"
    path.write_text(
        "IID height sex PC1 PC2 centre weight note\na 1.7 1 0.1 0.2 Leeds 60 x y\n".replace(
            "x y", "'x'"
        )
        + "b 1.8 2 0.3 0.1 York 70 12\nc 1.6 1 0.2 0.4 Leeds NA 3\n"
    )
    return path


def columns(tables) -> list[tuple[str, ...]]:
    return [table.columns for table in tables]


def test_everything_from_one_table(one, caplog):
    caplog.set_level(logging.INFO)
    asked = StudyColumns(
        one, mean_covariate=("sex", "PC1-PC2", "centre"), variance_covariate=("sex",)
    )
    study = read_study(asked, categorical=["sex"])
    # What is a covariate is no phenotype, unless it were named.
    assert study.phenotypes.columns == ("height", "weight", "note")
    assert columns(study.mean) == [("sex", "PC1", "PC2", "centre")]
    assert study.mean[0].levels == {"sex": ("1", "2"), "centre": ("Leeds", "York")}
    assert columns(study.variance) == [("sex",)]
    assert study.mean[0].values[:, 1].tolist() == [0.1, 0.3, 0.2]
    assert caplog.messages == [
        f"{one}: phenotypes 'height', 'weight' and 'note'",
        f"{one}: covariates of the mean 'sex', 'PC1', 'PC2' and 'centre'",
        f"{one}: covariates of the variance 'sex'",
    ]


def test_columns_that_nobody_asks_for_may_hold_anything(one):
    asked = StudyColumns(
        one, phenotype=("?eight",), mean_covariates=(one,), mean_covariate=("sex",)
    )
    study = read_study(asked)
    assert study.phenotypes.columns == ("height", "weight")
    assert columns(study.mean) == [("sex",)]
    with pytest.raises(InputError, match="column 'note'"):
        read_study(StudyColumns(one, mean_covariates=(one,)))


def test_covariates_of_the_variance_are_where_those_of_the_mean_are(one, tmp_path):
    more = tmp_path / "more.csv"
    more.write_text("IID,age,smoking\na,1,2\nb,2,3\n")
    given = {"phenotypes": one, "phenotype": ("height",), "mean_covariates": (more,)}
    study = read_study(StudyColumns(**given, variance_covariate=("smoking",)))
    assert columns(study.mean) == [("age", "smoking")]
    assert columns(study.variance) == [("smoking",)]
    # Of two tables, that of which nothing is wanted drops nobody.
    both = StudyColumns(**{**given, "mean_covariates": (one, more)}, mean_covariate=("PC1",))
    assert [len(table) for table in read_study(both).mean] == [3]
    with pytest.raises(InputError) as told:
        read_study(StudyColumns(**given, variance_covariate=("smokin",)))
    assert str(told.value) == (
        f"unknown variance covariate 'smokin' in {more}; did you mean 'smoking'?"
    )


def test_an_environment_need_not_be_among_the_covariates(one):
    asked = StudyColumns(one, phenotype=("height",), mean_covariate=("sex",), interaction="PC2")
    study = read_study(asked)
    assert study.environment is not None
    assert study.environment.columns == ("PC2",)
    assert columns(study.mean) == [("sex",)]


def test_a_column_has_one_part(one):
    asked = StudyColumns(one, phenotype=("height", "sex"), mean_covariate=("sex",))
    with pytest.raises(InputError, match="'sex' cannot be phenotype and covariate at once"):
        read_study(asked)
    with pytest.raises(InputError, match="no phenotype is left"):
        read_study(StudyColumns(one, phenotype=("*1",), mean_covariate=("PC1",)))


def test_frames_are_asked_as_files_are(one):
    frame = pd.read_csv(one, sep=" ", index_col="IID")
    where = Path("/x/<phenotypes>")
    asked = StudyColumns(where, phenotype=("height",), mean_covariate=("centre", "PC*"))
    study = read_study(asked, at_hand={where: frame})
    expected = read_study(
        StudyColumns(one, phenotype=("height",), mean_covariate=("centre", "PC*"))
    )
    assert columns(study.mean) == columns(expected.mean)
    assert study.mean[0].levels == expected.mean[0].levels
    assert (study.mean[0].values == expected.mean[0].values).all()
    assert str(study.phenotypes.path) == "phenotypes"


@pytest.mark.parametrize("index", [None, "IID", ["FID", "IID"]])
def test_of_parquet_only_what_is_asked_for_is_read(one, tmp_path, index, monkeypatch):
    frame = pd.read_csv(one, sep=" ")
    frame.insert(0, "FID", "f")
    frame = frame if index is None else frame.set_index(index)
    path = tmp_path / "study.parquet"
    frame.to_parquet(path)
    read: list[list[str] | None] = []
    read_parquet = pd.read_parquet

    def noted(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
        read.append(columns)
        return read_parquet(path, columns=columns)

    monkeypatch.setattr(pd, "read_parquet", noted)
    asked = StudyColumns(path, phenotype=("?eight",), mean_covariate=("PC1-PC2",))
    study = read_study(asked)
    assert study.phenotypes.columns == ("height", "weight")
    assert study.phenotypes.unread == ("sex", "PC1", "PC2", "centre", "note")
    assert columns(study.mean) == [("PC1", "PC2")]
    assert study.phenotypes.individual_id.tolist() == ["a", "b", "c"]
    assert study.phenotypes.family_id is not None
    assert all(names is not None and "note" not in names for names in read)
    with pytest.raises(InputError, match="did you mean 'centre'"):
        read_study(StudyColumns(path, phenotype=("height",), mean_covariate=("center",)))
