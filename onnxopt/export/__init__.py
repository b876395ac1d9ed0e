"""From PyTorch and Hugging Face to ONNX: read the source, export, check, choose, save.

The package has the name of the function that it is for: `onnxopt.export(...)` works whether or not
a module of the package was imported before, which binds the package to that name.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `onnxopt.export.exporting.export`."""
        function = importlib.import_module("onnxopt.export.exporting").export
        return function(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
