"""Fitting the null model of one phenotype, and covariate effects in the user's units."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.design import centre_and_scale
from hlmm_scan.errors import InputError
from hlmm_scan.models.fit import LEAST_RANDOM_VARIANCE, Fit, Information
from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.hlmm import HLMM, fit_relationship
from hlmm_scan.models.hlmm_objective import RandomEffectEvaluation
from hlmm_scan.models.inference import wald_neg_log10_p
from hlmm_scan.models.newton import GRADIENT_TOLERANCE
from hlmm_scan.models.relationship import by_relationship
from hlmm_scan.null.model import ALL_RANDOM_EFFECTS, NullFit, NullModel, RandomEffects
from hlmm_scan.null.moments import noise_moments, pooled_moments
from hlmm_scan.null.work import InTurn, Work, digest_of_parts
from hlmm_scan.schema import Status

logger = logging.getLogger(__name__)


CHROMOSOME_TOLERANCE = 1e-6
"""Gradient before the last Newton step of a fit that leaves a chromosome out. That step squares
what is left, to 1e-9 of a standard error or less; to ask for 1e-9 before it would cost one more
evaluation of about three. No standard errors, which are those before the step, are taken from
these fits."""


@dataclass(frozen=True)
class Effect:
    """One estimated parameter in the user's units.

    Attributes
    ----------
    part : str
        ``mean``, ``log_variance`` or ``random``.
    name : str
        Covariate, or ``variance`` of the random effects.
    estimate, standard_error : float
    neg_log10_p : float
        Of the 1-df Wald test; NaN for a variance, which is tested on its boundary.
    """

    part: str
    name: str
    estimate: float
    standard_error: float
    neg_log10_p: float


@dataclass(frozen=True)
class CovariateFit:
    """A model of one phenotype without a test variant, in the user's units.

    Attributes
    ----------
    effects : tuple of Effect
    log_likelihood : float
    status : str
        Label of the :class:`~hlmm_scan.schema.Status`.
    reason : str
    """

    effects: tuple[Effect, ...]
    log_likelihood: float
    status: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the fit as JSON types, numbers that do not exist as None."""

        def finite(value: Any) -> Any:
            return None if isinstance(value, float) and not np.isfinite(value) else value

        effects = [{k: finite(v) for k, v in asdict(e).items()} for e in self.effects]
        return {**asdict(self), "log_likelihood": finite(self.log_likelihood), "effects": effects}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> CovariateFit:
        """Return the fit that :meth:`to_json` gave."""

        def number(value: Any) -> Any:
            return float("nan") if value is None else value

        effects = tuple(Effect(**{k: number(v) for k, v in e.items()}) for e in stored["effects"])
        return cls(
            effects, number(stored["log_likelihood"]), str(stored["status"]), str(stored["reason"])
        )


def fit_covariates(
    cohort: Cohort,
    random_effects: RandomEffects | None = None,
    information: Information = "expected",
) -> CovariateFit:
    """Fit an HLM or HLMM of one phenotype without a test variant.

    Parameters
    ----------
    cohort : Cohort
    random_effects : RandomEffects, optional
        Without them, the HLM.
    information : {"expected", "observed"}, default "expected"

    Returns
    -------
    CovariateFit
        In the user's units.
    """
    y, centre, scale = _standardise(cohort.y)
    fit = _fit(y, cohort, random_effects, information)
    return _in_user_units(cohort, fit, centre, scale)


def fit_null(
    cohort: Cohort,
    random_effects: RandomEffects | None,
    *,
    seed_mode: bool,
    left_out: Iterable[str],
    work: Work | None = None,
    effects_name: str = "",
) -> tuple[NullModel, CovariateFit]:
    """Fit the null model of a scan.

    Parameters
    ----------
    cohort : Cohort
    random_effects : RandomEffects or None
    seed_mode : bool
        Replace the phenotype by its null residual over its null standard deviation, person by
        person, and both designs by an intercept (math.md §4, ``seed``). The covariates are then
        fitted without the random effects, as the 2018 script does.
    left_out : iterable of str
        Chromosomes, by any name, to leave out of the random effects in turn; empty without LOCO.
    work : Work, optional
        Does the fits of the chromosomes side by side, or has them from an earlier run. The numbers
        do not depend on it: all chromosomes start from the fit with all random effects.
    effects_name : str, default ""
        Tells `random_effects` from others, for what is kept.

    Returns
    -------
    NullModel
    CovariateFit
        Covariate effects with all random effects in (without any in seed mode), in the user's
        units.

    Raises
    ------
    InputError
        If the null model has no maximum, so that no variant could be tested, or a chromosome to
        leave out holds all random effects.
    """
    y, centre, scale = _standardise(cohort.y)
    X, V = cohort.mean_design.matrix, cohort.variance_design.matrix
    if seed_mode:
        first = _checked(cohort.phenotype, _fit(y, cohort, None, "expected"))
        covariates = _in_user_units(cohort, first, centre, scale)
        y = (y - X @ first.alpha) * np.exp(-0.5 * (V @ first.beta))
        scale = 1.0
        X = V = np.ones((len(y), 1))
    environment, environment_scale = None, 1.0
    if cohort.environment is not None:
        environment, _, environment_scale = _standardise(cohort.environment)
    fits: dict[str, NullFit] = {}
    if random_effects is None:
        fit = _checked(cohort.phenotype, HLM(y, X, V).fit())
        residuals = (y - X @ fit.alpha) * np.exp(-0.5 * (V @ fit.beta))
        fits[ALL_RANDOM_EFFECTS] = _null_fit(fit, pooled_moments(residuals))
        if not seed_mode:
            covariates = _in_user_units(cohort, fit, centre, scale)
    else:
        keys = random_effects.set_names(left_out)
        if len(keys) > 1 and len(set(random_effects.contigs)) == 1:
            raise InputError(
                f"{cohort.phenotype}: all random effects that vary among its people lie on "
                f"chromosome {keys[1]}, so that leaving it out leaves nothing; use --no-loco"
            )
        work = work or InTurn()
        described = digest_of_parts(y, X, V, effects_name, str(seed_mode))

        def with_all() -> dict[str, Any]:
            found, null_fit = _fit_set(cohort.phenotype, data, random_effects)
            kept = {"fit": _fit_to_json(null_fit)}
            if not seed_mode:
                kept["covariates"] = _in_user_units(cohort, found, centre, scale).to_json()
            return kept

        data = y, X, V
        kept = work.kept(cohort.phenotype, digest_of_parts(described, "all"), with_all)
        fits[ALL_RANDOM_EFFECTS] = whole = _fit_from_json(kept["fit"])
        if not seed_mode:
            covariates = CovariateFit.from_json(kept["covariates"])
        # Every chromosome starts from the fit with all random effects, near its own.
        start = whole.beta, max(whole.random_variance, LEAST_RANDOM_VARIANCE)

        def without(key: str) -> NullFit:
            def fit_it() -> dict[str, Any]:
                return _fit_to_json(_fit_set(cohort.phenotype, data, random_effects, key, start)[1])

            label = f"{cohort.phenotype} without chromosome {key}"
            name = digest_of_parts(described, key, start[0], np.array(start[1]))
            return _fit_from_json(work.kept(label, name, fit_it))

        fits.update(zip(keys[1:], work.each(without, keys[1:]), strict=True))
    model_ = NullModel(
        phenotype=cohort.phenotype,
        samples=cohort.samples,
        y=y,
        mean_design=X,
        variance_design=V,
        y_scale=scale,
        fits=fits,
        random_effects=random_effects,
        environment=environment,
        environment_scale=environment_scale,
        two_valued=cohort.two_valued,
    )
    return model_, covariates


def _standardise(y: Float) -> tuple[Float, float, float]:
    """Return (y − mean)/SD with the mean and the SD (divisor n)."""
    (centre,), (scale,) = centre_and_scale(y[:, None])
    return (y - centre) / scale, float(centre), float(scale)


def _fit(
    y: Float, cohort: Cohort, random_effects: RandomEffects | None, information: Information
) -> Fit:
    X, V = cohort.mean_design.matrix, cohort.variance_design.matrix
    if random_effects is None:
        return HLM(y, X, V).fit(information=information)
    return _fit_with((y, X, V), random_effects, information=information)[0]


def _fit_with(
    data: tuple[Float, Float, Float],
    random_effects: RandomEffects,
    left_out: str = ALL_RANDOM_EFFECTS,
    **options: Any,
) -> tuple[Fit, RandomEffectEvaluation | None]:
    """Fit y, X and V with one set of random effects, given as is cheaper."""
    if by_relationship(len(data[0]), random_effects.n_random(left_out)):
        return fit_relationship(*data, random_effects.relationship(left_out), **options)
    return HLMM(*data, random_effects.design(left_out)).fit_and_evaluate(**options)


def _checked(phenotype: str, fit: Fit) -> Fit:
    if not fit.success:
        raise InputError(
            f"{phenotype}: its null model (no test variant) could not be fitted: "
            f"{fit.status.label} ({fit.reason}); look at its distribution and covariates"
        )
    return fit


def _fit_set(
    phenotype: str,
    data: tuple[Float, Float, Float],
    random_effects: RandomEffects,
    left_out: str = ALL_RANDOM_EFFECTS,
    start: tuple[Float, float] | None = None,
) -> tuple[Fit, NullFit]:
    """Fit with one set of random effects, from the fit with all of them or from nothing."""
    tolerance = GRADIENT_TOLERANCE if start is None else CHROMOSOME_TOLERANCE
    fit, at = _fit_with(data, random_effects, left_out, start=start, tolerance=tolerance)
    _checked(phenotype, fit)
    assert at is not None
    return fit, _null_fit(fit, noise_moments(at))


def _fit_to_json(fit: NullFit) -> dict[str, Any]:
    arrays = {"alpha": fit.alpha.tolist(), "beta": fit.beta.tolist()}
    return {**asdict(fit), **arrays, "status": int(fit.status)}


def _fit_from_json(stored: dict[str, Any]) -> NullFit:
    arrays = {name: np.array(stored[name], dtype=np.float64) for name in ("alpha", "beta")}
    return NullFit(**{**stored, **arrays, "status": Status(stored["status"])})


def _null_fit(fit: Fit, moments: tuple[float, float]) -> NullFit:
    """Keep what scans start from; `moments` are the third and fourth of the noise."""
    return NullFit(
        alpha=fit.alpha,
        beta=fit.beta,
        random_variance=float(np.nan_to_num(fit.random_variance)),
        log_likelihood=float(fit.log_likelihood),
        status=fit.status,
        third_moment=moments[0],
        fourth_moment=moments[1],
    )


def _in_user_units(cohort: Cohort, fit: Fit, centre: float, scale: float) -> CovariateFit:
    c, v = len(fit.alpha), len(fit.beta)
    covariance = fit.covariance
    alpha, alpha_covariance = cohort.mean_design.mean_to_user(
        fit.alpha, covariance[:c, :c], 0.0, 1.0
    )
    alpha = alpha * scale
    alpha[0] += centre
    beta, beta_covariance = cohort.variance_design.variance_to_user(
        fit.beta, covariance[c : c + v, c : c + v], scale
    )
    effects: list[Effect] = []
    # The unit after the root: the square of 1e300, or of its inverse, is no number.
    for part, names, estimates, spread, unit in (
        ("mean", cohort.mean_design.names, alpha, alpha_covariance, scale),
        ("log_variance", cohort.variance_design.names, beta, beta_covariance, 1.0),
    ):
        errors = np.sqrt(np.diag(spread)) * unit
        tests = wald_neg_log10_p(estimates, errors)
        effects.extend(
            Effect(part, name, float(e), float(s), float(p))
            for name, e, s, p in zip(names, estimates, errors, tests, strict=True)
        )
    if len(covariance) > c + v:
        effects.append(
            Effect(
                "random",
                "variance",
                float(fit.random_variance) * scale * scale,
                float(fit.random_variance_se) * scale * scale,
                float("nan"),
            )
        )
    return CovariateFit(
        effects=tuple(effects),
        log_likelihood=float(fit.log_likelihood) - len(cohort.y) * float(np.log(scale)),
        status=fit.status.label,
        reason=fit.reason,
    )
