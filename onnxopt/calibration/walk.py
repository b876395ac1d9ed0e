"""A model run piece by piece over calibration data, when it changes between the pieces.

What is live where a piece ends is kept for every sample, so that the next piece starts there and
all pieces together cost about one run. What does not fit the memory waits in a temporary file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError
from onnxopt.core.walking import used_values
from onnxopt.graph.mapped import release_weights
from onnxopt.runtime.diagnosis.probing import as_declared
from onnxopt.runtime.diagnosis.regions import FED, cut
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.spooling import Spool
from onnxopt.runtime.session import open_session

_Arrays = dict[str, Any]


class Walk:
    """The state of one walk through a model.

    Args:
        data: What to run on.
        samples: Indexes of the input sets.
        max_memory: Bytes that values may take in memory between two pieces.
    """

    def __init__(self, data: CalibrationData, samples: Sequence[int], max_memory: int) -> None:
        self._data, self._samples, self._max_memory = data, samples, max_memory
        self._held = Spool(max_memory)

    def advance(self, model: ir.Model, names: Sequence[str], before: str) -> Iterator[_Arrays]:
        """Yields the named values, computed ones and inputs, for each sample.

        Args:
            model: The model as it is now. It may differ from that of the call before in nodes
                behind the place where that one ended.
            names: Values of the main graph.
            before: The next piece starts right before the node that gives this value.

        Raises:
            InvalidInputError: The model does not run on a sample.
        """
        computed = {value.name: value for node in model.graph for value in node.outputs}
        live = _live(model, before)
        targets = list(dict.fromkeys([*(n for n in names if n in computed), *live]))
        known = list(self._held[0]) if len(self._held) else []
        missing = [name for name in targets if name not in known]
        session = None
        held = Spool(self._max_memory)
        try:
            for place, index in enumerate(self._samples):
                one = self._data[index]
                values: _Arrays = {**one.feeds, **(self._held[place] if len(self._held) else {})}
                if missing:
                    fed = {**one.feeds, **{f"{n}{FED}": values[n] for n in known}}
                    try:
                        session = session or open_session(
                            cut(model, missing, known), spinning=False, arena=False
                        )
                        values |= session.run(as_declared(session, fed))
                    except CannotRunError as error:
                        raise InvalidInputError(
                            f"the model does not run on calibration sample {index} "
                            f"({one.description}): {error.reason}"
                        ) from error
                held.append({name: values[name] for name in live})
                if not place:
                    _declare(computed, held[0])
                yield {name: values[name] for name in names}
            self._held = held
        finally:
            release_weights(model)


def _declare(computed: Mapping[str | None, ir.Value], arrays: _Arrays) -> None:
    """Gives values the types that they turned out to have: the next piece is fed with them."""
    for name, array in arrays.items():
        value = computed.get(name)
        if value is not None and value.type is None and isinstance(array, np.ndarray):
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))


def _live(model: ir.Model, before: str) -> list[str]:
    """Values that nodes up to a place compute and nodes from there on read."""
    earlier: set[ir.Value] = set()
    live: dict[str, None] = {}
    reached = False
    for node in model.graph:
        reached = reached or any(value.name == before for value in node.outputs)
        if not reached:
            earlier.update(node.outputs)
            continue
        for value in used_values(node):
            if value in earlier and value.name:
                live[value.name] = None
    return list(live)
