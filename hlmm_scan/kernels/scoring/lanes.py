"""What the fast joint HLM kernel does to every person and variant, sixteen variants at a time.

Between the matrix products of a sweep stand an exponential and some twenty sums and products for
each person and variant. LLVM makes vector instructions of such loops only in part when they come
from numba, at a quarter of the speed, so the loop over people is written as vectors here: a lane is
a variant, single precision, and lowers to whatever width the machine has. All lanes are treated
alike, so a variant's numbers do not depend on where in a tile it stands (DESIGN.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

WIDTH = 64
"""Columns of every array of people × variants."""

LANES = 16
"""Variants treated together."""

MISSING = -1
"""Stands for a missing genotype; the others are not negative."""

SUMS = 9
"""Rows of the sums of :func:`weigh`."""

PROJECTED_SUMS = 7
"""Rows of the sums of :func:`weigh_projected`."""

_FLUSH = 32  # people whose sums are taken in single precision before they go into float64

cgutils: Any = untyped_cgutils
_FLOAT = ir.VectorType(ir.FloatType(), LANES)
_DOUBLE = ir.VectorType(ir.DoubleType(), LANES)
_INT = ir.VectorType(ir.IntType(32), LANES)

# exp(x) = 2ᶻ·exp(y), |y| ≤ ½ ln 2, by a polynomial with an error below one unit in the last place
# (Cephes, expf). Beyond ±80 the fit has long been sent elsewhere.
_LIMIT = 80.0
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)
_ROUNDING = 12582912.0  # 1.5·2²³: adding it rounds to an integer, which its lowest bits then hold


class _Lanes:
    """Sixteen numbers in the making, with the operators of numbers."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _of(self, other: Any) -> Any:
        if isinstance(other, _Lanes):
            return other.value
        return ir.Constant(self.value.type, [float(other)] * LANES)

    def _with(self, name: str, other: Any) -> _Lanes:
        return _Lanes(self.builder, getattr(self.builder, name)(self.value, self._of(other)))

    def __add__(self, other: Any) -> _Lanes:
        return self._with("fadd", other)

    def __sub__(self, other: Any) -> _Lanes:
        return self._with("fsub", other)

    def __mul__(self, other: Any) -> _Lanes:
        return self._with("fmul", other)

    def times_plus(self, factor: Any, summand: Any) -> _Lanes:
        """Return self·factor + summand, rounded once."""
        kind = ir.FunctionType(_FLOAT, [_FLOAT] * 3)
        fused = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fma.v{LANES}f32")
        arguments = [self.value, self._of(factor), self._of(summand)]
        return _Lanes(self.builder, self.builder.call(fused, arguments))

    def minus_product(self, one: _Lanes, other: _Lanes) -> _Lanes:
        """Return self − one·other, rounded once."""
        negative = _Lanes(self.builder, self.builder.fneg(one.value))
        return negative.times_plus(other, self)

    def within(self, limit: float) -> _Lanes:
        """Return the numbers cut off at ±limit; NaN stays."""
        value = self.value
        for bound, beyond in ((limit, ">"), (-limit, "<")):
            constant = self._of(bound)
            cut = self.builder.fcmp_ordered(beyond, value, constant)
            value = self.builder.select(cut, constant, value)
        return _Lanes(self.builder, value)

    def where(self, mask: Any) -> _Lanes:
        """Return the numbers where the mask holds and 0 elsewhere."""
        return _Lanes(self.builder, self.builder.select(mask, self.value, self._of(0.0)))

    def exp(self) -> _Lanes:
        """Return e to the power of the numbers."""
        x = self.within(_LIMIT)
        shifted = x.times_plus(_LOG2_E, _ROUNDING)
        z = shifted - _ROUNDING
        y = z.times_plus(-_LN2_LOW, z.times_plus(-_LN2_HIGH, x))
        series = _Lanes(self.builder, self._of(_POLYNOMIAL[0]))
        for coefficient in (*_POLYNOMIAL[1:], 0.5):
            series = series.times_plus(y, coefficient)
        series = (y * y).times_plus(series, y) + 1.0
        bits = self.builder.bitcast(shifted.value, _INT)
        exponent = self.builder.shl(bits, ir.Constant(_INT, [23] * LANES))
        # Adding to the exponent multiplies by a power of two.
        scaled = self.builder.add(self.builder.bitcast(series.value, _INT), exponent)
        return _Lanes(self.builder, self.builder.bitcast(scaled, _FLOAT))


class _Frame:
    """The arrays of a loop over people, and where it stands."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder, self.kinds = builder, signature.args
        self.data = [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def _row(self, array: int, index: Any, kind: Any) -> Any:
        place = self.builder.gep(self.data[array], [index])
        return self.builder.bitcast(place, kind.as_pointer())

    def load(self, array: int, index: Any) -> _Lanes:
        """Read sixteen numbers as single precision, whatever their type."""
        if self.kinds[array].dtype == types.int8:
            narrow = ir.VectorType(ir.IntType(8), LANES)
            value = self.builder.load(self._row(array, index, narrow), align=1)
            wide = self.builder.sext(value, _INT)
            return _Lanes(self.builder, self.builder.sitofp(wide, _FLOAT))
        return _Lanes(self.builder, self.builder.load(self._row(array, index, _FLOAT), align=4))

    def store(self, array: int, index: Any, value: _Lanes) -> None:
        self.builder.store(value.value, self._row(array, index, _FLOAT), align=4)

    def at(self, index: Any, row: int) -> Any:
        """Return the index `row` rows further."""
        return self.builder.add(index, ir.Constant(index.type, row * WIDTH))

    def genotype(self, array: int, index: Any, centre: _Lanes) -> tuple[_Lanes, Any]:
        """Read genotypes: their deviations from the centre, 0 where missing, and who is called."""
        raw = self.load(array, index)
        called = self.builder.fcmp_ordered(">=", raw.value, raw._of(0.0))
        return (raw - centre).where(called), called

    def add_up(
        self, rows: Any, at: Any, sums: int, body: Callable[[Any], tuple[_Lanes, ...]], n: int
    ) -> None:
        """Add what `body` returns for each of so many people to n rows of float64 sums."""
        zero = ir.Constant(_FLOAT, [0.0] * LANES)
        totals = [cgutils.alloca_once_value(self.builder, zero) for _ in range(n)]
        with cgutils.for_range(self.builder, rows) as loop:
            row = self.builder.mul(loop.index, ir.Constant(loop.index.type, WIDTH))
            for total, term in zip(totals, body(self.builder.add(row, at)), strict=True):
                self.builder.store(self.builder.fadd(self.builder.load(total), term.value), total)
        for k, total in enumerate(totals):
            place = self._row(sums, self.at(at, k), _DOUBLE)
            wide = self.builder.fpext(self.builder.load(total), _DOUBLE)
            self.builder.store(
                self.builder.fadd(self.builder.load(place, align=8), wide), place, align=8
            )


def _called(builder: Any, mask: Any) -> _Lanes:
    return _Lanes(builder, ir.Constant(_FLOAT, [1.0] * LANES)).where(mask)


def _weigh(_: Any, e: Any, r: Any, g: Any, parameters: Any, sums: Any, at: Any, rows: Any) -> Any:
    """Do the work of :func:`weigh` for sixteen lanes from `at` on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        frame = _Frame(context, builder, signature, arguments)
        at, rows = arguments[5:]
        centre, a_g, b_g = (frame.load(3, frame.at(at, k)) for k in range(3))

        def person(place: Any) -> tuple[_Lanes, ...]:
            x, called = frame.genotype(2, place, centre)
            log_w = frame.load(0, place).minus_product(b_g, x).where(called)
            root = (log_w * 0.5).exp().where(called)
            w = root * root
            residual = frame.load(1, place).minus_product(a_g, x)
            wr = w * residual
            excess = _called(builder, called).minus_product(wr, residual)
            frame.store(1, place, wr)
            frame.store(0, place, excess)
            wx, root_x = w * x, root * x
            return (wr * x, excess * x, excess, log_w, w, wx, wx * x, root_x, root_x * x)

        frame.add_up(rows, at, 4, person, SUMS)
        return context.get_dummy_value()

    return types.void(e, r, g, parameters, sums, types.intp, types.intp), codegen


def _weigh_projected(
    _: Any, e: Any, r: Any, g: Any, p: Any, q: Any, parameters: Any, sums: Any, at: Any, rows: Any
) -> Any:
    """Do the work of :func:`weigh_projected` for sixteen lanes from `at` on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        frame = _Frame(context, builder, signature, arguments)
        at, rows = arguments[7:]
        centre, a_g, b_g = (frame.load(5, frame.at(at, k)) for k in range(3))

        def person(place: Any) -> tuple[_Lanes, ...]:
            x, called = frame.genotype(2, place, centre)
            log_w = frame.load(0, place).minus_product(b_g, x)
            root = (log_w * 0.5).exp().where(called)
            residual = frame.load(1, place).minus_product(a_g, x)
            mean = (x - frame.load(3, place)) * root
            variance = (x - frame.load(4, place)).where(called)
            scaled = root * residual
            k = scaled * scaled
            score = mean * scaled
            variance_score = variance * (k - _called(builder, called)) * 0.5
            kv = k * variance
            return (
                *(mean * mean, variance * variance, mean * variance, kv * variance),
                *(score * score, variance_score * variance_score, score * variance_score),
            )

        frame.add_up(rows, at, 6, person, PROJECTED_SUMS)
        return context.get_dummy_value()

    kinds = (e, r, g, p, q, parameters, sums, types.intp, types.intp)
    return types.void(*kinds), codegen


# Any: the stubs take the typing context for an argument of the call.
_weigh_lanes: Any = intrinsic(_weigh)
_weigh_projected_lanes: Any = intrinsic(_weigh_projected)


@njit(nogil=True, cache=True)
def weigh(e: Any, r: Any, g: Any, parameters: Any, sums: Any) -> None:  # pragma: no cover
    """Turn log-weights and residuals into what a gradient multiplies with, in place.

    Parameters
    ----------
    e : ndarray of float32, shape (people·WIDTH,)
        In: log w of each person and variant, less the genotype's part. Out: 1 − k with k = r²w,
        and 0 where the genotype is missing.
    r : ndarray of float32, shape (people·WIDTH,)
        In: residuals less the genotype's part. Out: w·r, and 0 where missing.
    g : ndarray of float32 or int8, shape (people·WIDTH,)
        Genotypes, MISSING where missing.
    parameters : ndarray of float32, shape (3·WIDTH,)
        Centre, a_g and b_g; x = g − centre.
    sums : ndarray of float64, shape (SUMS·WIDTH,)
        To which Σwrx, Σ(1 − k)x, Σ(1 − k), Σlog w, Σw, Σwx, Σwx², Σ√w·x and Σ√w·x² are added.
    """
    people = len(e) // WIDTH
    for start in range(0, people, _FLUSH):
        rows, i = min(_FLUSH, people - start), start * WIDTH
        for lane in range(0, WIDTH, LANES):
            _weigh_lanes(e[i:], r[i:], g[i:], parameters, sums, lane, rows)


@njit(nogil=True, cache=True)
def weigh_projected(
    e: Any, r: Any, g: Any, p: Any, q: Any, parameters: Any, sums: Any
) -> None:  # pragma: no cover
    """Sum the efficient scores of variants and their squares.

    Parameters
    ----------
    e, r, g, parameters
        As :func:`weigh` takes them; here they stay as they are.
    p, q : ndarray of float32, shape (people·WIDTH,)
        Projections of x on the mean and on the variance design: x̃ = x − p, ṽ = x − q.
    sums : ndarray of float64, shape (PROJECTED_SUMS·WIDTH,)
        To which Σwx̃², Σṽ², Σ√w·x̃ṽ, Σkṽ², and Σs², Σt², Σst of the scores s = wrx̃ and
        t = ½ṽ(k − 1) are added.
    """
    people = len(e) // WIDTH
    for start in range(0, people, _FLUSH):
        rows, i = min(_FLUSH, people - start), start * WIDTH
        for lane in range(0, WIDTH, LANES):
            _weigh_projected_lanes(e[i:], r[i:], g[i:], p[i:], q[i:], parameters, sums, lane, rows)
