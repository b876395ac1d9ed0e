"""What is said when ONNX Runtime is missing or broken, and that an interrupt stays one."""

from __future__ import annotations

import sys

import pytest

from onnxopt.core.errors import MissingDependencyError
from onnxopt.runtime.library import require_runtime


class _Finder:
    """Makes `import onnxruntime` fail."""

    def __init__(self, error):
        self._error = error

    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise self._error


@pytest.fixture
def fail(monkeypatch):
    def install(error):
        monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
        monkeypatch.setattr(sys, "meta_path", [_Finder(error), *sys.meta_path])

    return install


def test_missing_runtime_names_the_extra_and_the_way_without(fail):
    fail(ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"))
    with pytest.raises(MissingDependencyError, match=r"'onnxopt\[cpu\]'.*--guard off") as info:
        require_runtime()
    assert "is needed" in str(info.value)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.12: cannot open shared object file"),
        ModuleNotFoundError("No module named 'libcudart'", name="libcudart"),
    ],
)
def test_broken_runtime_says_why_it_does_not_load(fail, error):
    fail(error)
    with pytest.raises(MissingDependencyError, match=r"does not load \(.*libcudart"):
        require_runtime()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_that_c_code_wrapped_is_raised_again(fail, interrupt):
    error = ImportError("initialization failed")
    error.__cause__ = interrupt()
    fail(error)
    with pytest.raises(interrupt):
        require_runtime()
