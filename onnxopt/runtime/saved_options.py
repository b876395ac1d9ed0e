"""Session options that a model was measured to be fastest with, in its own metadata.

    onnxopt.session_options   {"optimization": "extended", "disabled_optimizers": [...], ...}

Only the two options that say what ONNX Runtime rewrites on load: they belong to the graph, where
threads and the like belong to the machine. Metadata is as untrusted as the rest of a file, so that
nothing else is taken from there. What was measured of another graph counts for nothing: the number
of nodes has to be the same.
"""

from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.pipeline import count_nodes
from onnxopt.runtime.session_settings import SessionSettings, settings_from

KEY = "onnxopt.session_options"
_OPTIONS = ("optimization", "disabled_optimizers")


def save_options(model: ir.Model, settings: SessionSettings, measured: dict[str, Any]) -> None:
    """Writes options into a model, with what they were measured to gain."""
    options = {name: value for name, value in settings.to_dict().items() if name in _OPTIONS}
    data = {**options, "nodes": count_nodes(model), "measured": measured}
    model.metadata_props[KEY] = json.dumps(data)


def in_words(settings: SessionSettings) -> str:
    """What the two options say."""
    without = f", without {', '.join(settings.disabled_optimizers)}"
    return f"level {settings.optimization}" + without * bool(settings.disabled_optimizers)


def saved_options(model: ir.Model) -> SessionSettings | None:
    """The options in a model; None without any, or if they are of another graph.

    Raises:
        InvalidInputError: There is something else in their place.
    """
    text = model.metadata_props.get(KEY)
    if text is None:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"metadata {KEY}: no JSON") from error
    if not isinstance(data, dict) or data.get("nodes") != count_nodes(model):
        return None
    return settings_from({name: data[name] for name in _OPTIONS if name in data}, f"metadata {KEY}")
