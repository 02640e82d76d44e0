"""Errors: one line each, and the exit code a script can act on."""

import pytest

from hlmm_scan.errors import (
    DamagedError,
    HlmmScanError,
    IncompleteError,
    InfrastructureError,
    InputError,
    StoreHeldError,
    nearest,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IncompleteError, 1),
        (InputError, 2),
        (DamagedError, 2),
        (StoreHeldError, 3),
        (InfrastructureError, 4),
    ],
)
def test_every_error_has_the_exit_code_of_the_interface(error, code):
    assert error.exit_code == code
    assert issubclass(error, HlmmScanError)


def test_the_nearest_name_is_offered_and_only_where_it_is_near():
    known = ["height", "weight", "bmi"]
    assert nearest("heigth", known) == "; did you mean 'height'?"
    assert nearest("BMI2", ["BMI"]) == "; did you mean 'BMI'?"
    assert nearest("cholesterol", known) == ""
    assert nearest("x", []) == ""
