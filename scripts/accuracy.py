"""Accuracy of the kernels against the plain models: see scripts/accuracy.

Every case is one variant, drawn from its seed (`accuracy_cases.draw_case`) and fitted twice: by
`fit_block` with the kernel of its kind, also where a scan of so many people would take another, and
by `models.HLM` or `models.HLMM` from their own start, Newton steps to machine precision. Shown for
each kind are how often both report the same status and, where both found a maximum, the largest and
99.9th percentile distance of the effects, in the model's standard errors, and of the standard
errors, relative; in small cases also that of the robust standard errors from `models.robust`. The
reference itself is as far from its maximum as its gradient says: half of n·gradient times the
standard error.

Seeds are taken in turn, `--cases` of them from `--first` on, so that a run may be divided among
cores and days. `--case SEED` runs one case and prints both fits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
from accuracy_cases import KINDS, LEAST_MAC, Case, Kind, Plan, draw_case, plan_case
from simulated import CONTIG
from tables import table, write
from threadpoolctl import threadpool_limits

from hlmm_scan.kernels import paths
from hlmm_scan.kernels.block import FitOptions, fit_block
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.models import HLM, HLMM, Fit
from hlmm_scan.models.robust import sandwich_covariance, studentised_covariance
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS
from hlmm_scan.schema import Status

SE_ALLOWED = 1e-3
DENSE_PEOPLE = 600
"""Up to so many the robust covariances of `models.robust`, which are n×n, are worked out."""

# The copies of uncertain dosages may be a little fewer than those of the calls they are made of.
OPTIONS = FitOptions(0.0, 0.5 * LEAST_MAC, 1.0)
CONTIGS = np.array([CONTIG], dtype=object)
FOUND = (Status.OK, Status.RANDOM_VARIANCE_AT_ZERO)
EFFECTS, ERRORS = ("add", "var"), ("add_se", "var_se")


@dataclass(frozen=True)
class Comparison:
    """Both fits of one case.

    Attributes
    ----------
    seed, n : int
    kind : str
    kernel, model : str
        Labels of the two statuses.
    distance : dict of str to float
        Of ``add``, ``var`` and ``random_variance`` in standard errors, of standard errors
        relative, of ``log_likelihood`` (kernel less model); ``reference`` is the model's own
        distance from its maximum. What is not there is left out.
    what : str
        The case in words.
    taken : bool
        Whether a scan of that size takes this kernel, so that a distance counts.
    """

    seed: int
    n: int
    kind: str
    kernel: str
    model: str
    distance: dict[str, float]
    what: str
    taken: bool


def fit_plainly(case: Case) -> tuple[HLM | HLMM, Fit]:
    """Fit a case by the plain model, the genotype centred."""
    null, copies = case.null, case.genotypes.copies()[0]
    called = ~np.isnan(copies)
    g = copies[called] - copies[called].mean()
    y = null.y[called]
    X = np.column_stack([null.mean_design[called], g])
    V = np.column_stack([null.variance_design[called], g])
    if null.random_effects is None:
        hlm = HLM(y, X, V)
        return hlm, hlm.fit()
    hlmm = HLMM(y, X, V, null.random_effects.design(ALL_RANDOM_EFFECTS)[called])
    return hlmm, hlmm.fit()


def fit_by_kernel(case: Case) -> dict[str, float]:
    """Fit a case as a scan would; columns in reported units."""
    # A step from sums is not taken where a sandwich is asked for.
    sandwich = case.plan.kind.path is not paths.NEWTON_STEP
    options = replace(OPTIONS, inference=Inference(sandwich=sandwich))
    # A scan of so many people might take another path.
    with patch.object(paths, "path_of", lambda size: case.plan.kind.path):
        columns = fit_block(case.null, case.genotypes, CONTIGS, options)
    return {name: values[0] for name, values in columns.items()}


def compare(case: Case) -> Comparison:
    """Fit a case twice and say how far apart the fits are."""
    kernel = fit_by_kernel(case)
    model, fit = fit_plainly(case)
    status = Status(kernel["status"])
    distance: dict[str, float] = {}
    if status in FOUND and fit.status in FOUND:
        distance = _distances(case, kernel, model, fit)
        distance = {name: float(d) for name, d in distance.items() if np.isfinite(d)}
    return Comparison(
        case.plan.seed,
        case.plan.n,
        case.plan.kind.name,
        status.label,
        fit.status.label,
        distance,
        case.what,
        case.taken,
    )


def _distances(
    case: Case, kernel: dict[str, float], model: HLM | HLMM, fit: Fit
) -> dict[str, float]:
    scale = case.null.y_scale
    add_se, var_se = scale * fit.alpha_se[-1], fit.beta_se[-1]
    distance = {
        "add": abs(kernel["add"] - scale * fit.alpha[-1]) / add_se,
        "var": abs(kernel["var"] - fit.beta[-1]) / var_se,
        "add_se": abs(kernel["add_se"] / add_se - 1),
        "var_se": abs(kernel["var_se"] / var_se - 1),
        "log_likelihood": kernel["log_likelihood"] - (fit.log_likelihood - model.n * np.log(scale)),
    }
    if isinstance(model, HLMM):
        h2, h2_se = (scale**2 * x for x in (fit.random_variance, fit.random_variance_se))
        distance["random_variance"] = abs(kernel["random_variance"] - h2) / h2_se
        _, gradient = model.likelihood_and_gradient(fit.beta, fit.random_variance)
        errors = np.append(fit.beta_se, fit.random_variance_se)
        if fit.random_variance == 0:
            gradient, errors = gradient[:-1], errors[:-1]
    else:
        _, gradient = model.likelihood_and_gradient(fit.beta)
        errors = fit.beta_se
    distance["reference"] = np.abs(0.5 * model.n * gradient * errors).max()
    if model.n <= DENSE_PEOPLE:
        distance |= _robust_distances(case, kernel, model, fit)
    return distance


def _robust_distances(
    case: Case, kernel: dict[str, float], model: HLM | HLMM, fit: Fit
) -> dict[str, float]:
    random = (model.G, float(fit.random_variance)) if isinstance(model, HLMM) else ()
    moments = case.null.fits[ALL_RANDOM_EFFECTS].moments
    X, V = model.X, model.V
    p, q = X.shape[1] - 1, X.shape[1] + V.shape[1] - 1
    distance = {}
    for suffix, covariance in (
        ("robust", studentised_covariance(X, V, fit.beta, moments, *random)),
        ("sandwich", sandwich_covariance(model.y, X, V, fit.alpha, fit.beta, *random)),
    ):
        errors = np.sqrt([covariance[p, p], covariance[q, q]]) * [case.null.y_scale, 1.0]
        for name, error in zip(ERRORS, errors, strict=True):
            if f"{name}_{suffix}" not in kernel:
                continue
            distance[f"{name}_{suffix}"] = abs(kernel[f"{name}_{suffix}"] / error - 1)
    return distance


@dataclass(frozen=True)
class Summary:
    """All comparisons of one kind, with distances as (largest, 99.9th percentile)."""

    kind: Kind
    cases: list[Comparison]

    def worst(self, *names: str) -> tuple[float, float, Comparison] | None:
        """Return the largest and 99.9th percentile distance of some columns, and whose it is."""
        there = [
            (max(c.distance.get(name, -1.0) for name in names), k)
            for k, c in enumerate(self.cases)
            if any(name in c.distance for name in names)
        ]
        if not there:
            return None
        values = np.array([value for value, _ in there])
        largest, k = max(there)
        return largest, float(np.quantile(values, 0.999)), self.cases[k]

    def cell(self, *names: str) -> str:
        found = self.worst(*names)
        return "not available" if found is None else f"{found[0]:.1e} ({found[1]:.1e})"

    def differing(self) -> list[Comparison]:
        """Cases with two statuses."""
        return [c for c in self.cases if c.kernel != c.model]

    def misses(self) -> list[str]:
        """Say which cases are further apart than they may be."""
        lines = []
        for c in self.cases:
            effect = max(c.distance.get(name, 0.0) for name in EFFECTS)
            error = max(c.distance.get(name, 0.0) for name in ERRORS)
            h2 = c.distance.get("random_variance", 0.0)
            allowed = self.kind.allowed(c.n)
            if effect > allowed:
                lines.append(f"{effect:.1e} standard errors apart, allowed {allowed:g}: {_say(c)}")
            if h2 > 10 * allowed:
                lines.append(f"random variance {h2:.1e}, allowed {10 * allowed:g}: {_say(c)}")
            if error > SE_ALLOWED:
                lines.append(f"standard errors {error:.1e} apart: {_say(c)}")
            if (c.kernel in _FOUND_LABELS) != (c.model in _FOUND_LABELS):
                lines.append(f"kernel {c.kernel}, model {c.model}: {_say(c)}")
        return lines

    def judged(self, *, taken: bool) -> Summary:
        """Only the cases at whose size a scan takes this kernel, or only the others."""
        return Summary(self.kind, [c for c in self.cases if c.taken is taken])


_FOUND_LABELS = {status.label for status in FOUND}


def _say(c: Comparison) -> str:
    gain = c.distance.get("log_likelihood", np.nan)
    return f"--case {c.seed} ({c.kind}; {c.what}; kernel's log-likelihood {gain:+.1e})"


def markdown(summaries: list[Summary], skipped: int, minutes: float) -> str:
    rows = []
    for s in summaries:
        allowed = sorted({s.kind.allowed(n) for n in s.kind.people}, reverse=True)
        rows.append(
            [
                s.kind.name,
                f"{len(s.cases):,}",
                f"{len(s.cases) - len(s.differing()):,}",
                s.cell("add"),
                s.cell("var"),
                " / ".join(f"{a:g}" for a in allowed),
                s.cell("random_variance") if s.kind.random else "",
                s.cell(*ERRORS),
                s.cell("add_se_robust", "var_se_robust"),
                s.cell("add_se_sandwich", "var_se_sandwich"),
                s.cell("reference"),
            ]
        )
    total = sum(len(s.cases) for s in summaries)
    text = (
        f"{total:,} random cases in {minutes:.1f} minutes; largest distance (99.9th percentile). "
        "Effects and random variance in standard errors, standard errors relative; robust ones "
        f"where n ≤ {DENSE_PEOPLE:,}. The plain HLMM is affordable up to n·l² = 1,500³, which caps "
        "l at n for n ≤ 1,500 and at 410 for n = 20,000.\n\n"
    )
    header = ["kernel", "cases", "same status", "add", "var", "allowed", "random variance"]
    header += ["standard errors", "studentised", "sandwich", "reference off its maximum"]
    text += table(header, rows) + "\n"
    if skipped:
        text += f"{skipped} phenotypes had no null model and were left out.\n"
    for s in summaries:
        if found := s.worst(*EFFECTS):
            text += f"Worst of {s.kind.name}: {found[0]:.1e}, {_say(found[2])}\n"
        for c in s.differing()[:5]:
            text += f"Statuses: kernel {c.kernel}, model {c.model}, {_say(c)}\n"
    return text


def show(seed: int) -> None:
    """Print both fits of one case."""
    case = draw_case(plan_case(seed))
    if case is None:
        print("no null model")
        return
    kernel = fit_by_kernel(case)
    print(f"{case.plan.kind.name}: {case.what}")
    for name, value in kernel.items():
        print(f"{name:32}{value:.10g}")
    model, fit = fit_plainly(case)
    scale = case.null.y_scale
    print(f"model: {fit.status.label} ({fit.reason}), {fit.iterations} iterations")
    for name, value in (
        ("add", scale * fit.alpha[-1]),
        ("add_se", scale * fit.alpha_se[-1]),
        ("var", fit.beta[-1]),
        ("var_se", fit.beta_se[-1]),
        ("random_variance", scale**2 * fit.random_variance),
        ("random_variance_se", scale**2 * fit.random_variance_se),
        ("log_likelihood", fit.log_likelihood - model.n * np.log(scale)),
    ):
        print(f"{name:32}{value:.10g}")
    for name, value in compare(case).distance.items():
        print(f"distance of {name:20}{value:.3g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 small cases, ten of each kind")
    parser.add_argument("--cases", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="default: 0")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after; default: 60")
    parser.add_argument("--case", type=int, metavar="SEED", help="run one case and print its fits")
    parser.add_argument("-o", "--output", type=Path, default=Path("build"), metavar="FOLDER")
    options = parser.parse_args()
    threadpool_limits(1)
    if options.case is not None:
        show(options.case)
        return 0
    start = time.monotonic()
    seeds = range(options.first, options.first + options.cases)
    plans = quick_plans() if options.quick else map(plan_case, seeds)
    found: dict[str, list[Comparison]] = defaultdict(list)
    skipped = 0
    for plan in plans:
        case = draw_case(plan)
        if case is None:
            skipped += 1
        else:
            found[plan.kind.name].append(compare(case))
        if time.monotonic() - start > 60 * options.minutes:
            print(f"stopped after seed {plan.seed}; go on with --first {plan.seed + 1}")
            break
    summaries = [Summary(kind, found[kind.name]) for kind in KINDS if kind.name in found]
    misses = [miss for s in summaries for miss in s.judged(taken=True).misses()]
    beyond = [miss for s in summaries for miss in s.judged(taken=False).misses()]
    text = markdown(summaries, skipped, (time.monotonic() - start) / 60)
    text += "".join(f"MISS {miss}\n" for miss in misses) or "All as required.\n"
    text += "".join(f"Where no scan takes this kernel: {miss}\n" for miss in beyond)
    data = [asdict(c) for s in summaries for c in s.cases]
    write(options.output, "accuracy", text, data)
    return int(bool(misses))


def quick_plans() -> Iterator[Plan]:
    """Plans of the first few small cases of each kind."""
    for kind in KINDS:
        small = (plan for plan in map(plan_case, count()) if plan.kind == kind and plan.n <= 800)
        yield from islice(small, 10)


if __name__ == "__main__":
    sys.exit(main())
