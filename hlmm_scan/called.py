"""Packages that carry the name of a public function, and can be called like it.

``hlmm_scan.scan`` is the function of users and the package where scans are made. Importing a
package sets it as an attribute of its parent, whichever function stood there: so it is made to be
that function when it is called, and to show its signature and documentation.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def is_called(name: str, where: str) -> None:
    """Make an imported package callable.

    Parameters
    ----------
    name : str
        Of the package, as ``"hlmm_scan.scan"``.
    where : str
        The module that holds the function of the same last name; loaded at the first call.
    """

    def function() -> Callable[..., Any]:
        from importlib import import_module

        found: Callable[..., Any] = getattr(import_module(where), name.rpartition(".")[2])
        return found

    class Called(ModuleType):
        __doc__ = property(lambda self: function().__doc__)
        __signature__ = property(lambda self: inspect.signature(function()))

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return function()(*arguments, **options)

    sys.modules[name].__class__ = Called
