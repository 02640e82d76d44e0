"""The report: one HTML file that opens without a network, and stays readable on paper."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import xarray as xr

from hlmm_scan import __version__
from hlmm_scan.analysis.calibration import calibration
from hlmm_scan.analysis.hits import hits
from hlmm_scan.analysis.rows import numbers_of_phenotypes
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.outputs import staged_text
from hlmm_scan.report import facts
from hlmm_scan.report.effects import additive_against_variance, effect_by_frequency
from hlmm_scan.report.facts import TEST_WORDS, Table, number
from hlmm_scan.report.genome import Genome
from hlmm_scan.report.leads import MOST, Lead, choose_leads
from hlmm_scan.report.manhattan import manhattan, mirrored_manhattan, random_variance
from hlmm_scan.report.qq import qq
from hlmm_scan.report.svg import inline_svg
from hlmm_scan.report.trait import (
    GENOME_WIDE,
    ROWS_PER_READ,
    TESTS,
    Trait,
    read_trait,
    shown_p,
    tests_shown,
)
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import QUESTIONS

logger = logging.getLogger(__name__)

LARGE = 10 << 20
"""Bytes of a page from which on it says so, and how to have less."""


Place = tuple[str, str, str]
"""Id, chromosome and position, alleles."""


@dataclass(frozen=True)
class Picture:
    """A figure of the page: an ``<svg>`` element and what stands below it."""

    svg: str
    caption: str
    wide: bool


@dataclass(frozen=True)
class Section:
    """What the page says of one phenotype."""

    key: str
    name: str
    overview: tuple[str, ...]
    verdict: str
    pictures: tuple[Picture, ...]
    hits: Table
    n_hits: int
    inflation: Table
    people: Table
    statuses: Table
    covariates: Table


def write_report(
    store: ResultStore,
    output: Path,
    phenotypes: Sequence[str] = (),
    *,
    tests: Sequence[str] = (),
    threshold: float = GENOME_WIDE,
    genotypes: Genotypes | None = None,
    checks: bool = True,
) -> int:
    """Write a report of a scan, complete or not, as one self-contained HTML file.

    Parameters
    ----------
    store : ResultStore
    output : Path
    phenotypes : sequence of str, default all
    tests : sequence of str, optional
        Of each question one test at most, for Manhattan plots and tables, as
        :func:`hlmm_scan.results.tests.parse_tests` takes them. Default: the default tests.
    threshold : float, default 5e-8
        p-value below which a variant is a hit.
    genotypes : GenotypeDataset or JoinedGenotypes, optional
        Those that were scanned: then hits are told apart by linkage, else by distance alone.
    checks : bool, default True
        Whether the variance effects of hits are checked where there are genotypes, see
        :func:`hlmm_scan.analysis.hits.hits`.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    InputError
        If a phenotype is unknown, there is no such test, or the file cannot be written.
    """
    numbers = numbers_of_phenotypes(store, phenotypes)
    shown = tests_shown(tests, [v.name for v in store.readable], store.path)
    names = [test.name for test in shown.values()]
    find = partial(hits, store, tests=names, threshold=threshold, genotypes=genotypes)
    with store.being_read():
        text = _page(store, numbers, names, threshold, partial(find, checks=checks))
    with staged_text(output) as file:
        file.write(text)
    size = len(text.encode())
    if size > LARGE:
        logger.warning(
            "%s: %.0f MiB; name fewer phenotypes with --phenotype for a smaller file",
            output,
            size / 2**20,
        )
    return size


def _page(
    store: ResultStore,
    phenotypes: Sequence[int],
    tests: Sequence[str],
    threshold: float,
    find: Callable[[Sequence[str]], pd.DataFrame],
) -> str:
    with store.dataset(chunks=None) as results:
        genome = Genome.read(results, ROWS_PER_READ)
        sections = []
        for number in phenotypes:
            one = results.isel(phenotype=number)
            trait = read_trait(one, tests=tests, threshold=threshold, genome=genome)
            logger.info("%s: read, %d variants are hits", trait.phenotype, len(trait.hits))
            leads = choose_leads(trait, find([trait.phenotype]))
            sections.append(_section(store, one, trait, leads, f"p{number}"))
    templates = resources.files("hlmm_scan.report") / "templates"
    script = (templates / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hlmm_scan.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    attributes = store.attributes
    return environment.get_template("report.html").render(
        title=store.path.name,
        complete=attributes.get("run_status") == "complete",
        model=attributes.get("parameters", {}).get("model", ""),
        n_variants=results.sizes["variant"],
        sections=sections,
        most=MOST,
        overview=Table(_OVERVIEW, tuple(section.overview for section in sections)),
        threshold=f"{threshold:g}",
        provenance=facts.provenance(store),
        statistics=facts.run_statistics(store),
        software=__version__,
        style=(templates / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


# One phenotype ----------------------------------------------------------------------------

_OVERVIEW = (
    *("phenotype", "people", "variants tested", "significant: mean", "variance", "joint"),
    *("dispersion", "λ mean", "λ variance", "λ joint"),
)


def _section(
    store: ResultStore, results: xr.Dataset, trait: Trait, leads: tuple[Lead, ...], key: str
) -> Section:
    null = facts.null_attributes(store, trait.phenotype)
    places = _places(results, leads)
    (calibrated,) = calibration(store, [trait.phenotype])
    return Section(
        key=key,
        name=trait.phenotype,
        overview=_overview(trait, null),
        verdict=calibrated.verdict.text,
        pictures=_pictures(trait, leads, places, key),
        hits=_hits(trait, leads, places, key),
        n_hits=len(trait.hits),
        inflation=facts.inflation(calibrated),
        people=facts.people(null),
        statuses=facts.statuses(trait),
        covariates=facts.covariates(null),
    )


def _overview(trait: Trait, null: dict[str, Any]) -> tuple[str, ...]:
    cells = [trait.phenotype, facts.count(null["people"]) if null else "–"]
    cells.append(facts.count(facts.fitted(trait)))
    for test in TESTS:
        found = trait.hits[shown_p(test)] > trait.threshold if test in trait.tests else None
        cells.append("–" if found is None else facts.count(found.sum()))
    for test in ("add", "var", "av"):
        shown = trait.shown[test]
        cells.append(facts.inflation_factor(trait.quantiles[shown.name].lambda_gc(shown.df)))
    return tuple(cells)


def _pictures(
    trait: Trait, leads: tuple[Lead, ...], places: Sequence[Place], key: str
) -> tuple[Picture, ...]:
    titles = dict(zip((lead.gid for lead in leads), _titles(trait, leads, places), strict=True))
    name = trait.phenotype
    words = {test: facts.FORM_WORDS[trait.shown[test].form] for test in QUESTIONS}
    apart = f"{words['add']}, and" if words["add"] != words["var"] else "and"
    line = f"The dashed line is p = {10**-trait.threshold:.2g}."

    def picture(figure: Any, what: str, caption: str, *, wide: bool = True) -> Picture:
        svg = inline_svg(figure, f"{key}-{what}", f"{name}: {caption}", titles)
        return Picture(svg, caption, wide)

    made = [
        picture(
            mirrored_manhattan(trait, leads),
            "mirrored",
            f"Tests of the mean (above), {apart} of the variance (below), {words['var']}. {line} "
            "Numbers are those of the table of hits.",
        ),
        picture(
            manhattan(trait, "av", leads),
            "joint",
            f"Joint test of mean and variance, 2 degrees of freedom, {words['av']}. {line}",
        ),
    ]
    if "dispersion" in trait.tests:
        made.append(
            picture(
                manhattan(trait, "dispersion", leads),
                "dispersion",
                "Dispersion: effects on the variance beyond what the effect on the mean brings "
                f"along. {line}",
            )
        )
    made.append(
        picture(
            qq(trait),
            "qq",
            "Observed against expected p-values; λ is the median χ² over its median without "
            "effects. The band holds 95% of independent tests without effects, rank by rank.",
        )
    )
    made.append(
        picture(
            additive_against_variance(trait, leads),
            "effects",
            "Effects on the variance against effects on the mean: hits with 95% intervals, and in "
            f"grey a sample of all variants.{_along(trait)}",
            wide=False,
        )
    )
    made.append(
        picture(
            effect_by_frequency(trait, leads),
            "frequency",
            "Size of effects by frequency. From the dashed line on, an effect with the usual "
            "standard error would be a hit.",
            wide=False,
        )
    )
    if trait.random_variance is not None:
        made.append(
            picture(
                random_variance(trait),
                "random",
                "Share of the variance that the random effects take, re-estimated at every "
                "variant.",
            )
        )
    return tuple(made)


def _along(trait: Trait) -> str:
    """Say what the line is, where there is one."""
    if trait.slope is None:
        return ""
    return " The line is the change in variance that a change in mean brings along."


def _hits(trait: Trait, leads: tuple[Lead, ...], places: Sequence[Place], key: str) -> Table:
    """Return one row for each lead."""
    header = ["#", "variant", "position", "allele", "freq.", "n", "effect on mean", "on variance"]
    header += [f"−log₁₀\u00a0p {TEST_WORDS[test]}" for test in trait.tests] + ["found by"]
    doubtful = any(lead.doubt for lead in leads)
    header += ["doubts"] * doubtful
    rows = []
    for lead, place in zip(leads, places, strict=True):
        hit = trait.hits.loc[lead.variant].to_dict()
        cells = [str(lead.number), *place]
        cells += [number(hit["effect_allele_frequency"]), facts.count(hit["n"])]
        cells += [f"{number(hit[t])} ± {number(hit[f'{t}_se'], 2)}" for t in ("add", "var")]
        cells += [f"{hit[shown_p(test)]:.2f}" for test in trait.tests]
        cells.append(", ".join(TEST_WORDS[test] for test in lead.tests))
        cells += [lead.doubt] * doubtful
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows), tuple(f"{key}-{lead.gid}" for lead in leads))


def _titles(trait: Trait, leads: tuple[Lead, ...], places: Sequence[Place]) -> list[str]:
    """Return what a mark says without a script."""
    titles = []
    for lead, place in zip(leads, places, strict=True):
        hit = trait.hits.loc[lead.variant].to_dict()
        tests = ", ".join(
            f"{TEST_WORDS[t]} p = {facts.p_value(hit[shown_p(t)])}" for t in trait.tests
        )
        titles.append(f"{lead.number}: {place[0]}, {place[1]}; {tests}")
    return titles


def _places(results: xr.Dataset, leads: tuple[Lead, ...]) -> list[Place]:
    """Return id, place and alleles (the effect's first) of some variants."""
    names = ["variant_id", "contig", "position", "effect_allele", "other_allele"]
    rows = np.array([lead.variant for lead in leads], dtype=np.int64)
    part = results[names].reset_coords()[names].isel(variant=rows).load()
    columns = [part[name].values for name in names]
    return [
        (str(i), f"{c}:{int(p):,}" if p > 0 else f"{c}:?", f"{e}/{o}")
        for i, c, p, e, o in zip(*columns, strict=True)
    ]
