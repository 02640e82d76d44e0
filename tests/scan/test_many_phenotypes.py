"""Thousands of phenotypes: what is said of them stays lines that a person reads."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest

from hlmm_scan.errors import InputError
from hlmm_scan.scan import run

TRAITS = 1_500
LONGEST = 250


def test_no_line_names_all_of_thousands(bench, tmp_path, caplog):
    people = pd.read_csv(bench.cohort.phenotypes, sep="\t").iloc[:, :2]
    values = np.random.default_rng(1).standard_normal((len(people), TRAITS))
    names = [f"protein_number_{k}" for k in range(TRAITS)]
    table = pd.concat([people, pd.DataFrame(values, columns=names)], axis=1)
    table.to_csv(tmp_path / "many.tsv", sep="\t", index=False)
    config = bench.config(tmp_path / "r.zarr", phenotypes=tmp_path / "many.tsv")
    with caplog.at_level(logging.DEBUG, logger="hlmm_scan"):
        words = run.dry_run(config)
        with pytest.raises(InputError) as unknown:
            run.dry_run(dataclasses.replace(config, phenotype=("nope",)))
    assert f"{TRAITS} phenotypes" in words
    lines = [*words.splitlines(), *str(unknown.value).splitlines(), *caplog.text.splitlines()]
    assert max(map(len, lines)) < LONGEST + len(str(tmp_path))
