"""Compiles a function when it is first called.

numba's cache on disk is not used: beside an installed package it can often not be written, and where no place can be
found it raises. The loops of a placement take some seconds to compile, once in each process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS: Final = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""`_nrt`: no counting of references, which takes a third of the compile time and half of the running time where
records of many arrays are handed around."""


def compiled(function: Function) -> Function:
    """Return `function` in machine code that numba makes of it for the types of the first call.

    It may not make arrays or other objects: it gets the room that it needs as an argument.
    """
    return cast(Function, cast(Any, njit)(**OPTIONS)(function))
