"""onnx_ir without sympy, until somebody needs it."""

from __future__ import annotations

import subprocess
import sys

_QUICK = """
import sys
from onnxopt.core.deferring import import_onnx_ir
import_onnx_ir()
import onnxopt.optimizing
assert "sympy" not in sys.modules
import onnx_ir as ir
one = ir.SymbolicDim("batch * max(heads, 2)") + 1
assert one.value == "batch*Max(2, heads) + 1", one.value
assert one.evaluate({"batch": 3, "heads": 5}) == 16
import sympy
assert ir.SymbolicDim(sympy.Symbol("n") + 1).value == "n + 1"
from onnxopt.graph import symbolic
assert symbolic.mul("a", symbolic.add("b", 1)) == "a*b + a"
"""
_USUAL = """
import onnx_ir, sympy
from onnxopt.core.deferring import import_onnx_ir
import_onnx_ir()
import sys
assert sys.modules["sympy"] is sympy and onnx_ir._core.sympy is sympy
"""


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sympy_comes_with_the_first_dimension_that_is_computed() -> None:
    _run(_QUICK)


def test_import_is_the_usual_one_when_it_is_done_already() -> None:
    _run(_USUAL)
