"""What a result store says of its making: the run, its inputs, its software."""

from __future__ import annotations

import logging
import platform
import time
import uuid
from importlib import metadata
from typing import Any

from hlmm_scan import __version__
from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES
from hlmm_scan.scan.inputs import Inputs
from hlmm_scan.scan.plan import Plan

logger = logging.getLogger(__name__)

_VERSIONED = ("dask", "distributed", "numba", "numpy", "scipy", "xarray", "zarr")


def software() -> dict[str, str]:
    """Return the versions of what computes."""
    return {
        "hlmm_scan": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _VERSIONED},
    }


def _paths(given: Any) -> str | list[str]:
    """Return one path, or several, as text."""
    if not isinstance(given, tuple):
        return str(given)
    return str(given[0]) if len(given) == 1 else [str(one) for one in given]


def input_paths(inputs: Inputs, genotypes: tuple[str, ...]) -> dict[str, str | list[str]]:
    """Return where the files of a run were, by option."""
    return {
        "genotypes": genotypes[0] if len(genotypes) == 1 else list(genotypes),
        **{
            name: _paths(getattr(inputs.config, name))
            for name in (
                "phenotypes",
                "mean_covariates",
                "variance_covariates",
                "random_effects",
                "keep",
                "remove",
                "condition_list",
                "extract",
                "exclude",
                "sex_table",
                "offset",
            )
            if getattr(inputs.config, name) not in (None, ())
        },
    }


def provenance(inputs: Inputs, plan: Plan) -> dict[str, Any]:
    """Return the attributes of the store: what was run, on what, with which software."""
    seed_mode = inputs.config.covariate_mode == "seed"
    return {
        "run_id": uuid.uuid4().hex,
        "run_status": "incomplete",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parameters": dict(plan.parameters),
        "phenotypes_left_out": dict(plan.left_out),
        "autosomes": inputs.config.autosomes or HUMAN_AUTOSOMES,
        "inputs": input_paths(inputs, plan.genotypes),
        "software": software(),
        "effects_per": "copy of effect_allele",
        "effect_scale": (
            "null residual over its per-person null standard deviation (covariate mode seed): not "
            "comparable with effects of other modes"
            if seed_mode
            else inputs.cohort.transform.scale
        ),
        "log_likelihood_of": (
            "the null residual over its per-person null standard deviation"
            if seed_mode
            else f"the phenotype as analysed: {inputs.cohort.transform.scale}"
        ),
    }
