"""Limits that several ways to fit share: one name for one concept, and why some differ.

What steers one search or loop alone (its tolerance, its strips, its budget) stands beside it. None
of these numbers is an option: each is far from where a result of use would change.
"""

# Which way fits what ----------------------------------------------------------------------------

SECOND_ORDER_PEOPLE = 5_000
"""From so many people on, second-order fits are near exact ones (at l = 500, 3e-3 of a standard
error; 1e-2 at most) and ten to a hundred times as fast. What is interesting is fitted exactly."""

SECOND_ORDER_ALONE_PEOPLE = 20_000
"""From so many people on second-order fits are held to 1e-3 of a standard error and stand for
themselves: below, exact fits of what is interesting are cheap."""

SINGLE_PRECISION_PEOPLE = 20_000
"""From so many people on random effects with weights by person are taken in single precision, and
one probe of a determinant has little noise."""

WRITTEN_OUT_PEOPLE = 5_000
"""Up to so many people M∘M is written out for scores with random effects."""

CLASS_GRAMS_SHARE = 4
"""People per random effect up to which class Gram matrices cost more than weights by person."""

PLAIN_WORK = 50_000_000
"""n·l² up to which the plain estimator takes some hundredths of a second for a variant."""

PLAIN_WORK_FOR_FEW = 1_000_000_000
"""The same, where only the variants that are interesting are fitted plainly."""

INTERESTING_NEG_LOG10_P = 4.0
"""Variants with a test beyond this are fitted exactly, where that is cheap for so few."""

EXACT_DISTANCE = 1e-5
"""Standard errors from the maximum that exact fits may end."""

# What is no estimate ----------------------------------------------------------------------------

COLLINEAR = 1e-8
"""1 − R² of the genotype on the covariates below which its effect is not unique."""

COLLINEAR_SCREENED = 1e-6
"""The same of a screen, whose sums are of some 23 bits: less is their rounding."""

SINGULAR = 1e-12
"""Eigenvalue or pivot of an information of unit diagonal below which it has no inverse."""

FLOOR = -25.0
"""Log of a person's variance over the total variance that no real trait reaches: fits that run
away get there in under ten steps."""

# Steps ------------------------------------------------------------------------------------------

MAX_STEP = 3.0
"""Log-variance units that a step may move any person, the Hessian being exact."""

MAX_STEP_SECOND_ORDER = 2.0
"""The same between genotype classes, on a second-order likelihood: a good one near the null."""

MAX_STEP_OF_METRIC = 1.5
"""The same of an average or an outer person, with the Hessian of the null model and what gradients
taught: a long step is not to be trusted."""

CONVEX = 1e-4
"""Least curvature against the expected information for a Newton step."""

CONVEX_NULL = 0.2
"""The same of the null model, whose observed information is to serve all variants."""

ACCEPTED = 1e-8
"""Gradient of −2 log L, per observation and standard error, at which a fit stuck at machine
precision still counts as converged."""


def second_order_distance(n: int) -> float:
    """Return how far, in standard errors, a second-order effect may be from the exact one.

    Parameters
    ----------
    n : int
        People.
    """
    return 1e-3 if n >= SECOND_ORDER_ALONE_PEOPLE else 1e-2
