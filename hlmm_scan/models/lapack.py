"""LAPACK at work in a matrix's own memory, beside other threads of Python.

numpy's decompositions let other threads run, but copy; scipy's can do without a copy, but hold the
interpreter's lock. These are the functions that scipy exports for Cython, called by address, which
do neither. A row-major lower triangle is what LAPACK calls the upper one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from scipy.linalg import cython_lapack

from hlmm_scan.array_types import Float

_SIGNATURE = b"void (char *, int *, __pyx_t_5scipy_6linalg_13cython_lapack_d *, int *, int *)"
_Function = Callable[..., None]


def _exported(name: str) -> _Function:
    """Return a function of a triangle: UPLO, N, A, LDA, INFO."""
    exports: dict[str, object] = dict(cython_lapack.__pyx_capi__)
    capsule = ctypes.py_object(exports[name])
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    # Asked for by its signature, so that another width of integers is an error and not a crash.
    number = ctypes.POINTER(ctypes.c_int)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, number, ctypes.c_void_p, number, number)
    return kind(address(capsule, _SIGNATURE))


_potrf, _potri = _exported("dpotrf"), _exported("dpotri")


def cholesky_in_place(A: Float, n: int | None = None) -> None:
    """Put C of A = CCᵀ into the lower triangle of A; what is above it stays as it is.

    Parameters
    ----------
    A : ndarray, shape (m, m), row-major
        Only its lower triangle is read.
    n : int, optional
        Of the first n rows and columns only; the others stay as they are.

    Raises
    ------
    numpy.linalg.LinAlgError
        If A is not positive definite numerically; its lower triangle is then neither A nor C.
    """
    if _in_place(_potrf, A, n) != 0:
        raise np.linalg.LinAlgError("the matrix is not positive definite")


def inverse_in_place(C: Float) -> None:
    """Put the lower triangle of (CCᵀ)⁻¹ in the place of that of C, shape (n, n), row-major."""
    if _in_place(_potri, C, None) != 0:
        raise np.linalg.LinAlgError("the matrix is singular")


def _in_place(function: _Function, A: Float, n: int | None) -> int:
    if not (A.dtype == np.float64 and A.flags.carray and A.shape[0] == A.shape[1]):
        raise ValueError("a square row-major matrix of float64 is needed")
    info = ctypes.c_int(0)
    order = ctypes.c_int(len(A) if n is None else n)
    stride = ctypes.c_int(max(1, len(A)))
    function(b"U", order, A.ctypes.data, stride, info)
    return info.value
