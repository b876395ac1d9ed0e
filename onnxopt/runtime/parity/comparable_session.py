"""Sessions of two models that take the same inputs and give comparable results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.binding import feeds_for
from onnxopt.runtime.parity.padding import Masked, trimmed
from onnxopt.runtime.session import Declared, Feeds, Session

_FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"})


class ComparableSession(Session):
    """A session that rounds inputs to its own types and results to those of a reference.

    Args:
        session: The model.
        masks: Output name to the input that masks it.
        outputs: Declared outputs of the reference.
    """

    def __init__(
        self, session: Session, masks: Mapping[str, Masked], outputs: Sequence[Declared]
    ) -> None:
        super().__init__(session.native)
        self._session = session  # owns memory that the runtime reads
        self._masks = masks
        own = {value.name: value.type for value in session.outputs}
        self._recast = {v.name for v in outputs if own.get(v.name) != v.type and v.type in _FLOATS}
        self._reference_types = {value.name: value.type for value in outputs}

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Runs the model once; what a mask declares to be padding is zero."""
        return self.trimmed(self.run_whole(feeds), feeds)

    def run_whole(self, feeds: Feeds) -> dict[str, Any]:
        """Runs the model once, padding included."""
        outputs = self._session.run(feeds_for(self._session, feeds, "the second model"))
        for name in self._recast & set(outputs):
            # Both become float32, unless the reference is wider.
            wide = np.float64 if self._reference_types[name] == "tensor(double)" else np.float32
            outputs[name] = _rounded(outputs[name].astype(wide), self._reference_types[name])
        return outputs

    def trimmed(self, outputs: Mapping[str, Any], feeds: Feeds) -> dict[str, Any]:
        """The results with zeros for what the mask in the inputs declares to be padding."""
        return trimmed(outputs, feeds, self._masks)


def check_interfaces(
    first: tuple[Sequence[Declared], Sequence[Declared]], second: Session
) -> tuple[str, ...]:
    """Makes sure that two models can be compared; types of floats may differ.

    Args:
        first: Declared inputs and outputs of the first model.
        second: The second model.

    Returns:
        What is different and no obstacle.

    Raises:
        InvalidInputError: Names or types differ.
    """
    notes = []
    for what, before, after in (
        ("inputs", first[0], second.inputs),
        ("outputs", first[1], second.outputs),
    ):
        types = {value.name: value.type for value in before}
        others = {value.name: value.type for value in after}
        if types.keys() != others.keys():
            raise InvalidInputError(
                f"the models cannot be compared: the {what} of the first are {', '.join(types)}, "
                f"those of the second {', '.join(others)}"
            )
        for name, kind in types.items():
            if kind == others[name]:
                continue
            if not {kind, others[name]} <= _FLOATS:
                raise InvalidInputError(
                    f"the models cannot be compared: {what[:-1]} {name!r} is {kind} in the first, "
                    f"{others[name]} in the second"
                )
            notes.append(f"{what[:-1]} {name!r} is {kind} in the first model, {others[name]} in "
                         "the second; compared as the first's")  # fmt: skip
    return tuple(notes)


def _rounded(array: Any, kind: str) -> Any:
    return array.astype(np.float16) if kind == "tensor(float16)" else array
