"""Modules that are imported when something of them is used.

sympy takes a third of the start of a command, and most runs do no algebra on symbolic dimensions.
onnx_ir imports it at once all the same, so commands and their child processes call `import_onnx_ir`
before anything else. Programs that import onnxopt get onnx_ir as it always is.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """Stands for a module that is imported with the first attribute that is asked for."""

    # What is asked for while this is true is a function for a table, to be called later.
    importing_others = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.importing_others:
            return lambda *arguments: getattr(self, name)(*arguments)
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)  # the next time nobody asks here
        return value


def import_onnx_ir() -> None:
    """Imports onnx_ir, which gets sympy when it needs it. Others import sympy as always."""
    if "sympy" in sys.modules or "onnx_ir" in sys.modules:
        return
    sympy = sys.modules["sympy"] = Deferred("sympy")
    sympy.importing_others = True
    try:
        importlib.import_module("onnx_ir")
    finally:
        sympy.importing_others = False
        del sys.modules["sympy"]
