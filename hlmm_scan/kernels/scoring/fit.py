"""The fast kernel for the HLM with covariates refitted at every variant.

Same model, arguments and answer as :func:`hlmm_scan.kernels.joint.fit.fit_joint`, which stays the
plain reference and gets whatever this kernel does not bring to convergence.

Write f = −log L for θ = (a₀, b₀, a_g, b_g). Newton's method needs the Hessian of every variant,
which is quadratic in the number of covariates; the gradient is linear in it. So the gradient is
computed exactly at every step (:mod:`~hlmm_scan.kernels.scoring.sweep`), and the Hessian is that of
the null model: among covariates one matrix for all variants, and for covariates × genotype and
genotype × genotype two dozen products of the genotypes with weighted covariates. There it is exact,
so the error of a step is of the order of the distance from the null model, in units of the data's
standard deviation, times the step; limited-memory BFGS learns some of it from the gradients
(:mod:`~hlmm_scan.kernels.scoring.steps`). With gradients that are exact, that only says how fast
the maximum is approached, not where it is. Most variants of a scan need one sweep or two. Genotypes
with a strong variance effect get their Hessian anew on the way (math.md §4).

**A variant's numbers do not depend on its block.** Matrix products
(:mod:`~hlmm_scan.kernels.sums.products`) treat all columns alike, and so do the loops of vectors
between them: sums are the same bit for bit wherever in a tile a variant stands. Decisions (metric,
halved steps, stop) are taken per variant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hlmm_scan.array_types import Float
from hlmm_scan.kernels.covariances import likelihood_ratios, put_ratios
from hlmm_scan.kernels.estimates import DEFAULT_INFERENCE, Estimates, Inference
from hlmm_scan.kernels.joint.design import JointDesign
from hlmm_scan.kernels.joint.fit import TILE as PLAIN_TILE
from hlmm_scan.kernels.scoring.design import ScoringDesign
from hlmm_scan.kernels.scoring.fits import REJECTED, Fits
from hlmm_scan.kernels.scoring.report import log_likelihood, project, report, sandwich
from hlmm_scan.kernels.scoring.steps import PAIRS, State
from hlmm_scan.kernels.scoring.sweep import STRIP
from hlmm_scan.kernels.scoring.tile import TILE, Genotypes, Tile, count
from hlmm_scan.kernels.sums.dosage_codes import TABLE_BYTES
from hlmm_scan.schema import Status

_MAX_SWEEPS = 30

_FREE, _NO_ADD, _NO_VAR, _NEITHER = (False, False), (True, False), (False, True), (True, True)


def fit_scoring(
    design: JointDesign | ScoringDesign,
    genotypes: Genotypes,
    inference: Inference = DEFAULT_INFERENCE,
) -> Estimates:
    """Fit the HLM with all covariates free, for a block of variants.

    Parameters
    ----------
    design : JointDesign or ScoringDesign
        A :class:`JointDesign` is prepared anew on every call; scans pass the prepared one.
    genotypes : ndarray, shape (n, m), or OfPeople
        Copies of the effect allele (or dosages), NaN where missing: those people are left out for
        that variant. Dosages are rounded to float32.
    inference : Inference, optional
        Which standard errors and tests to give. The observed information is exact, and quadratic
        in the number of covariates.

    Returns
    -------
    Estimates
        m rows; PENDING what is for :func:`~hlmm_scan.kernels.joint.fit.fit_joint`.
    """
    prepared = design if isinstance(design, ScoringDesign) else ScoringDesign.of(design)
    m = count(genotypes)
    block = _Block(prepared, inference, Estimates.empty(m), np.full((m, 4), np.nan))
    for start in range(0, m, TILE):
        rows = np.arange(start, min(start + TILE, m))
        tile = Tile.of(genotypes, slice(start, start + TILE))
        block.begin(Fits.of(prepared, tile, rows))
        block.work(leave=TILE - 1)
    block.work(leave=0)
    if inference.likelihood_ratio:
        block.compare()
    return block.estimates


def work_bytes(n: int, c: int, v: int, *, dosages: bool = False) -> int:
    """Return the memory of :func:`fit_scoring`, whatever the number of variants.

    Parameters
    ----------
    n, c, v : int
        People, columns of the mean and of the variance design.
    dosages : bool, default False
        Whether genotypes are not hard calls: they take four bytes, not one.

    Notes
    -----
    The prepared columns and the temporary arrays of making them; tiles of genotypes:
    one, and three each of variants that wait for more sweeps, for their covariances or for
    their sandwiches, one of them in the making; the table of dosages; the strips and the systems
    of a tile; and the variants that the plain kernel gets at a time.
    """
    q = c + v
    prepared = 4 * n * (5 * q + v + 12) + 3 * 8 * n * q
    tiles = 10 * (4 if dosages else 1) * n * TILE
    strip = 6 * 4 * min(n, STRIP) * TILE
    systems = 8 * TILE * (4 * q * q + (2 * PAIRS + 20) * (q + 2))
    table = TABLE_BYTES if dosages else 0
    return prepared + tiles + strip + systems + 10 * 8 * n * PLAIN_TILE + table


@dataclass
class _Waiting:
    """Variants that wait until there are enough of them for a tile."""

    parts: list[tuple[Fits, State]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(state.index) for _, state in self.parts)

    def add(self, fits: Fits, state: State) -> None:
        """Take variants with a copy of their genotypes."""
        if len(state.index):
            self.parts.append(fits.keep(state))

    def take(self) -> tuple[Fits, State]:
        """Return a tile's worth of variants, or all there are."""
        chosen: list[tuple[Fits, State]] = []
        room = TILE
        while self.parts and room:
            fits, state = self.parts.pop(0)
            if len(state.index) > room:
                self.parts.insert(0, fits.keep(state.keep(slice(room, None))))
                fits, state = fits.keep(state.keep(slice(room)))
            chosen.append((fits, state))
            room -= len(state.index)
        return Fits.join(chosen)


@dataclass
class _Block:
    """A block of variants on its way from start to covariances.

    Attributes
    ----------
    design : ScoringDesign
    inference : Inference
    estimates : Estimates
        Of all variants of the block; what stays PENDING is for the plain kernel.
    log_likelihoods : ndarray, shape (m, 4)
        With both effects of the genotype free, and with a_g, b_g or both held at 0.
    steps, scores, sandwiches : _Waiting
        Variants that need more sweeps, and finished ones that need a pass for their covariances or
        for their sandwiches.
    """

    design: ScoringDesign
    inference: Inference
    estimates: Estimates
    log_likelihoods: Float
    steps: _Waiting = field(default_factory=_Waiting)
    scores: _Waiting = field(default_factory=_Waiting)
    sandwiches: _Waiting = field(default_factory=_Waiting)

    def begin(self, fits: Fits) -> None:
        """Take the first steps of a tile, with the genotype's effects free and held."""
        self._advance(fits, fits.begin(_FREE))
        if self.inference.likelihood_ratio:
            for held in (_NO_ADD, _NO_VAR):
                self._advance(fits, fits.begin(held))
            # With everybody called the fit without the genotype is the null model.
            self.log_likelihoods[fits.rows, 3] = -fits.value - 0.5 * fits.people * np.log(2 * np.pi)
            neither = fits.begin(_NEITHER)
            some = np.flatnonzero(fits.called[neither.index] < 1)
            if len(some):
                self._advance(fits, neither.keep(some))

    def work(self, leave: int) -> None:
        """Go on with what waits until at most so many variants do."""
        while len(self.steps) > leave:
            self._advance(*self.steps.take())
        while len(self.scores) > leave:
            fits, state = self.scores.take()
            project(fits, state, self.estimates, self.inference)
        while len(self.sandwiches) > leave:
            sandwich(*self.sandwiches.take(), self.estimates)

    def _advance(self, fits: Fits, state: State) -> None:
        """Make one sweep; report what is done by it."""
        if not len(state.index):
            return
        done, sweep = fits.advance(state)
        rows = np.flatnonzero(done)
        finished = state.keep(rows)
        kind = finished.held @ [1, 2]
        self.log_likelihoods[fits.rows[finished.index], kind] = log_likelihood(fits, finished)
        free = np.flatnonzero(kind == 0)
        finished = finished.keep(free)
        estimates, unsure = report(fits, finished, sweep.of(rows[free]), self.inference)
        self.estimates.put(fits.rows[finished.index], estimates)
        self.scores.add(fits, finished.keep(np.flatnonzero(unsure)))
        if self.inference.sandwich and not self.inference.observed:
            self.sandwiches.add(fits, finished)
        more = ~done & (state.rejected < REJECTED) & (state.sweeps < _MAX_SWEEPS)
        self.steps.add(fits, state.keep(np.flatnonzero(more)))

    def compare(self) -> None:
        """Put the likelihood-ratio statistics; PENDING where a restricted fit was not finished."""
        statistics = likelihood_ratios(self.log_likelihoods[:, :1], self.log_likelihoods[:, 1:])
        put_ratios(self.estimates, slice(None), statistics)
        unknown = (self.estimates.status == Status.OK) & np.isnan(statistics).any(axis=1)
        rows = np.flatnonzero(unknown)
        self.estimates.put(rows, Estimates.empty(len(rows)))
