"""ONNX Runtime sessions: opened from a file or from a model in memory, quiet, one-line failures."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import MissingDependencyError, OnnxOptError, SaveError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.skeleton import serialize_skeleton

if TYPE_CHECKING:
    import onnxruntime as ort

Optimization = Literal["all", "extended", "basic", "disabled"]
Feeds = Mapping[str, Any]

CPU = ("CPUExecutionProvider",)
# The working directory belongs to the whole process.
_CHDIR = threading.Lock()
_FATAL_ONLY = 4
_LONGEST_REASON = 400
# "[ONNXRuntimeError] : 1 : FAIL : ", paths of ONNX Runtime's sources, the C++ signature after them.
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S*/onnxruntime/\S+:\d+ |\S+\.(?:cc|h):\d+ |"
    r"(?:[\w:<>&*]+ )*?onnxruntime::[^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])? "
)
# NumPy has no such types of its own, and ONNX Runtime's bindings only take NumPy's own.
_FOREIGN: dict[str, np.dtype[Any]] = {
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(float8e4m3fn)": np.dtype(ml_dtypes.float8_e4m3fn),
    "tensor(float8e5m2)": np.dtype(ml_dtypes.float8_e5m2),
}


class CannotRunError(OnnxOptError):
    """ONNX Runtime cannot load the model or cannot run it on these inputs.

    Attributes:
        reason: ONNX Runtime's message in one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class SavedFile(os.PathLike[str]):
    """A model file that has to load from anywhere: it is opened from another working directory.

    Attributes:
        path: Its absolute path.
    """

    path: str

    def __fspath__(self) -> str:
        return self.path


ModelSource = str | Path | SavedFile | bytes | ir.Model


@dataclasses.dataclass(frozen=True)
class Declared:
    """A graph input or output as the session declares it.

    Attributes:
        name: Its name.
        type: ONNX Runtime's text of the type, as "tensor(float)".
        shape: Sizes, symbol names, or None where nothing is known; empty for a scalar.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """A model loaded in ONNX Runtime.

    Attributes:
        native: The `onnxruntime.InferenceSession`.
        inputs: Declared inputs that have to be fed.
        outputs: Declared outputs.
        needs_ort_values: True if some type is one that NumPy lacks, as bfloat16.
    """

    def __init__(self, native: ort.InferenceSession, weights: Sequence[Any] = ()) -> None:
        self.native = native
        self.inputs = _declared(native.get_inputs())
        self.outputs = _declared(native.get_outputs())
        self._weights = weights  # memory that ONNX Runtime may still read
        self.needs_ort_values = any(
            value.type in _FOREIGN for value in (*self.inputs, *self.outputs)
        )

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Runs the model once.

        Args:
            feeds: Input name to array; names that the model does not have are left out.

        Returns:
            Output name to array, or to a list or a dictionary for sequences and maps.

        Raises:
            CannotRunError: The run failed.
        """
        known = {value.name for value in self.inputs}
        known |= {value.name for value in self.native.get_overridable_initializers()}
        chosen = {name: array for name, array in feeds.items() if name in known}
        missing = [value.name for value in self.inputs if value.name not in chosen]
        if missing:
            raise CannotRunError(f"input {missing[0]!r} is not fed")
        try:
            results = (
                self._run_foreign(chosen)
                if self.needs_ort_values
                else self.native.run(None, chosen)
            )
        except _runtime_errors() as error:
            raise CannotRunError(one_line(error)) from error
        return {value.name: result for value, result in zip(self.outputs, results, strict=True)}

    def _run_foreign(self, feeds: Feeds) -> list[Any]:
        values = {name: _as_ort_value(array) for name, array in feeds.items()}
        return [_from_ort_value(value) for value in self.native.run_with_ort_values(None, values)]


def open_session(
    model: ModelSource,
    *,
    optimization: Optimization = "all",
    threads: int | None = None,
    providers: Sequence[str] = CPU,
    disabled_optimizers: Sequence[str] = (),
    spinning: bool = True,
    reuse_memory: bool = True,
    prepacking: bool = True,
    arena: bool = True,
    config: Mapping[str, str] | None = None,
    profile_prefix: str | None = None,
) -> Session:
    """Loads a model in ONNX Runtime.

    A model in memory is not written to disk: its structure is serialized without the large weights,
    which are handed over beside it, so that models beyond protobuf's 2 GB load as well.

    A file goes to ONNX Runtime by its path, except where that is not UTF-8.

    Args:
        model: Path, serialized bytes, or a model in memory, which is left as it is.
        optimization: How far ONNX Runtime may rewrite the graph on load.
        threads: Threads inside an operator; ONNX Runtime's choice by default.
        providers: Execution providers in order of preference.
        disabled_optimizers: ONNX Runtime's own optimizers to leave out, by name.
        spinning: Let idle threads spin, which is fast and keeps cores busy between runs.
        reuse_memory: Plan which values share memory by their declared shapes; a model that declares
            wrong ones runs only without.
        prepacking: Keep a second copy of weights in the layout that the kernels want.
        arena: Keep freed memory for the next run: fast, but all that any run took stays taken.
        config: More entries of ONNX Runtime's session configuration.
        profile_prefix: Record the time of every node; the file's name begins with this.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        CannotRunError: ONNX Runtime refuses the model.
    """
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = getattr(
        runtime.GraphOptimizationLevel, level_name(optimization)
    )
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_reuse = reuse_memory
    options.enable_cpu_mem_arena = arena
    if not prepacking:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    source: str | bytes
    weights: list[Any] = []
    model = _openable(model)
    _give_back_freed_memory()
    try:
        if isinstance(model, ir.Model):
            source, tensors = serialize_skeleton(model)
            if tensors:
                weights = [
                    runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype)
                    for array, dtype in tensors.values()
                ]
                options.add_external_initializers(list(tensors), weights)
        else:
            source = model if isinstance(model, bytes) else os.fspath(model)
        with _elsewhere(isinstance(model, SavedFile)):
            native = runtime.InferenceSession(
                source,
                options,
                providers=list(providers),
                disabled_optimizers=list(disabled_optimizers),
            )
    except _runtime_errors() as error:
        raise CannotRunError(one_line(error)) from error
    return Session(native, weights)


def level_name(optimization: Optimization) -> str:
    """ONNX Runtime's name of an optimization level."""
    return "ORT_DISABLE_ALL" if optimization == "disabled" else f"ORT_ENABLE_{optimization.upper()}"


def one_line(error: BaseException) -> str:
    """ONNX Runtime's message as one line, without its source paths and error codes."""
    text = " ".join(_NOISE.sub("", " ".join(str(error).split())).split())
    text = text.removesuffix("Please fix either the inputs/outputs or the model.").rstrip()
    text = text or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def require_runtime() -> None:
    """Imports ONNX Runtime, so that it is known before any other work whether models can be run.

    Raises:
        MissingDependencyError: It is not installed, or does not load.
    """
    load_runtime()


def load_runtime() -> Any:
    """Imports ONNX Runtime.

    Raises:
        MissingDependencyError: It is not installed, or does not load.
    """
    advice = "pip install 'onnxopt[cpu]' (or 'onnxopt[gpu]'), or go without a check: --guard off"
    try:
        import onnxruntime
    except ImportError as error:
        _raise_interrupt(error)
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            reason = "is needed to run models"
        else:
            reason = f"is installed but does not load ({one_line(error)})"
        raise MissingDependencyError(f"ONNX Runtime {reason}: {advice}") from error
    if not hasattr(onnxruntime, "InferenceSession"):  # a folder that an uninstallation left
        raise MissingDependencyError(f"ONNX Runtime is installed incompletely: {advice}")
    return onnxruntime


def _raise_interrupt(error: BaseException) -> None:
    """Raises the interrupt that an import in C made an ImportError of, if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (KeyboardInterrupt, SystemExit)):
            raise cause
        cause = cause.__cause__ or cause.__context__


def _openable(model: ModelSource) -> ModelSource:
    """The model; loaded if its path is one that ONNX Runtime cannot be given."""
    if isinstance(model, (bytes, ir.Model)):
        return model
    try:
        os.fspath(model).encode()
    except UnicodeEncodeError:
        try:
            return load_model(model)
        except OnnxOptError as error:
            raise CannotRunError(str(error)) from error
    return model


def _give_back_freed_memory() -> None:
    """Returns what an earlier session freed to the system: the C library may keep gigabytes."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not on every C library
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _elsewhere(away: bool) -> Iterator[None]:
    """Another working directory, of the whole process, for the moment."""
    try:
        before = Path.cwd() if away else None
    except FileNotFoundError:
        before = None  # it was deleted: no relative path leads anywhere
    if before is None:
        yield
        return
    with _CHDIR:
        os.chdir(before.anchor)
        try:
            yield
        finally:
            os.chdir(before)


@functools.cache
def _runtime_errors() -> tuple[type[Exception], ...]:
    """What its calls raise; its own exceptions have no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own: list[type[Exception]] = [
        item
        for item in vars(state).values()
        if isinstance(item, type) and issubclass(item, Exception)
    ]
    return (*own, RuntimeError, ValueError, TypeError, SaveError)


def _declared(values: Sequence[Any]) -> tuple[Declared, ...]:
    return tuple(Declared(value.name, value.type, tuple(value.shape or ())) for value in values)


def _as_ort_value(array: Any) -> Any:
    runtime = load_runtime()
    array = np.ascontiguousarray(array)
    dtype = ir.DataType.from_numpy(array.dtype)
    if array.dtype.kind == "V":
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype.value)


def _from_ort_value(value: Any) -> Any:
    dtype = _FOREIGN.get(value.data_type())
    if dtype is None:
        return value.numpy()
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * dtype.itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    # The memory belongs to the OrtValue: copy it.
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), dtype).reshape(shape)
