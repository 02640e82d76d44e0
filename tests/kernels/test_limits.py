"""One name for one concept: what `limits` has, no other module of the kernels has again."""

from __future__ import annotations

import ast
from pathlib import Path

from hlmm_scan.kernels import limits

FOLDER = Path(limits.__file__).parent


def constants(file: Path) -> set[str]:
    """Upper-case names that a module gives a value to, without leading underscores."""
    targets = [
        target
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    ]
    names = {target.id.lstrip("_") for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if name.isupper()}


def test_no_limit_is_set_twice():
    shared = constants(FOLDER / "limits.py")
    assert len(shared) > 15
    others = [file for file in FOLDER.rglob("*.py") if file.name != "limits.py"]
    assert {file.name: both for file in others if (both := constants(file) & shared)} == {}


def test_exceptions_are_on_the_side_that_their_reasons_say():
    assert limits.COLLINEAR < limits.COLLINEAR_SCREENED
    assert limits.MAX_STEP_OF_METRIC < limits.MAX_STEP_SECOND_ORDER < limits.MAX_STEP
    assert limits.CONVEX < limits.CONVEX_NULL
    assert limits.SECOND_ORDER_PEOPLE < limits.SECOND_ORDER_ALONE_PEOPLE
    assert limits.PLAIN_WORK < limits.PLAIN_WORK_FOR_FEW
    few, many = limits.SECOND_ORDER_ALONE_PEOPLE - 1, limits.SECOND_ORDER_ALONE_PEOPLE
    assert limits.second_order_distance(few) > limits.second_order_distance(many)
    assert limits.second_order_distance(many) > limits.EXACT_DISTANCE
