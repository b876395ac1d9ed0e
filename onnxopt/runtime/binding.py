"""One run of a session as a call without arguments, with the data where the provider wants it."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.library import load_runtime
from onnxopt.runtime.measuring.interleaving import Call
from onnxopt.runtime.session import Feeds, Session

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def run_call(session: Session, feeds: Feeds, *, device: str = "cpu") -> Call:
    """A call that runs the session once.

    On a GPU inputs are copied there once and outputs stay there (IO binding), so that the copies,
    which a pipeline on the device does without, are not timed; the call waits for the results.

    Args:
        session: The model.
        feeds: Its inputs.
        device: "cpu" or "cuda".
    """
    if device == "cpu":
        if session.needs_ort_values:
            return lambda: session.run(feeds)
        native, chosen = session.native, dict(feeds)
        return lambda: native.run(None, chosen)
    return bound_call(session.native, feeds, device)


def bound_call(native: Any, feeds: Feeds, device: str) -> Call:
    """A call with inputs and outputs bound to a device."""
    binding = native.io_binding()
    make = load_runtime().OrtValue.ortvalue_from_numpy
    # Texts have no place on a device.
    values = {
        name: make(array, "cpu" if array.dtype.kind in "OUS" else device, 0)
        for name, array in feeds.items()
    }
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in native.get_outputs():
        # No size is given: it may change from run to run.
        binding.bind_output(output.name, device)

    def call() -> object:
        native.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return values  # alive as long as the call is

    return call


def feeds_for(session: Session, feeds: Feeds, what: str) -> dict[str, Any]:
    """The inputs of one model for another: floats are rounded to the type that it declares.

    Args:
        session: The model to feed.
        feeds: Inputs of the first model.
        what: The model in words, for the message.

    Raises:
        InvalidInputError: It has other inputs.
    """
    missing = [value.name for value in session.inputs if value.name not in feeds]
    if missing:
        raise InvalidInputError(
            f"{what} has an input {missing[0]!r} that the first model lacks; its inputs are "
            f"{', '.join(feeds)}"
        )
    chosen = {}
    for value in session.inputs:
        array = feeds[value.name]
        wanted = _FLOATS.get(value.type)
        if wanted is not None and getattr(array, "dtype", None) in _FLOATS.values():
            array = array.astype(wanted, copy=False)
        chosen[value.name] = array
    return chosen
