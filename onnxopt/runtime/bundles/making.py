"""From a model in a folder to a bundle: options, timing, samples, README, record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.loading import load_model
from onnxopt.graph.staged_folder import save_errors
from onnxopt.runtime.bundles.environment import describe_environment
from onnxopt.runtime.bundles.manifest import MANIFEST, Manifest, hash_file, write_manifest
from onnxopt.runtime.bundles.readme import bundle_readme
from onnxopt.runtime.bundles.samples import write_samples
from onnxopt.runtime.bundles.timing import time_models, timing_inputs
from onnxopt.runtime.bundles.tuning import tune_session
from onnxopt.runtime.inputs.plan import plan_inputs
from onnxopt.runtime.session import open_session
from onnxopt.runtime.session_settings import SessionSettings


def complete_bundle(
    folder: Path,
    model: str,
    settings: SessionSettings,
    *,
    original: Path | None,
    inputs: Any,
    tune: bool,
    seconds: float,
    ort_format: bool,
    facts: dict[str, Any],
) -> Manifest:
    """Makes a bundle of a folder that holds a model and its external data.

    Args:
        folder: The folder.
        model: The model's file in it.
        settings: How to open it, before tuning.
        original: What it was made of, to time it against.
        inputs: The user's data; synthesized by default.
        tune: Search for faster session options.
        seconds: How long to time it; 0 leaves that out.
        ort_format: Add it in ONNX Runtime's own format.
        facts: What is known so far, for the record.

    Returns:
        The record, as it was written.

    Raises:
        OnnxOptError: The model does not run as it has to, or something cannot be written.
    """
    path = folder / model
    graph = load_model(path)
    notes: list[str] = []
    base = settings
    if tune or seconds > 0:
        try:
            one = timing_inputs(path, settings, inputs)
        except InvalidInputError as error:
            notes.append(f"not timed: {error}")
        else:
            if tune:
                tuning = tune_session(path, one.feeds, settings)
                settings = tuning.settings
                facts["tuning"] = tuning.to_dict()
            if seconds > 0:
                models = [] if original is None else [(original, base)]
                facts["timing"] = time_models([*models, (path, settings)], one, seconds)
    with save_errors(folder):
        samples = write_samples(path, folder, settings, plan_inputs(graph, inputs))
        if ort_format:
            _write_ort_format(path, settings)
        facts["environment"] = describe_environment()
        facts["notes"] = [*notes, *samples.notes]
        readme = bundle_readme(model, settings, _described_inputs(graph), facts)
        (folder / "README.md").write_text(readme, encoding="utf-8", errors="backslashreplace")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = Manifest(
            model=model,
            files={file.relative_to(folder).as_posix(): hash_file(file) for file in files},
            session=settings,
            samples=samples.samples,
            tolerances=samples.tolerances,
            facts=facts,
        )
        write_manifest(manifest, folder / MANIFEST)
    return manifest


def _write_ort_format(path: Path, settings: SessionSettings) -> None:
    """model.ort beside model.onnx: rewritten by ONNX Runtime, but not for this CPU alone."""
    level = "extended" if settings.optimization == "all" else settings.optimization
    open_session(
        path,
        optimization=level,
        disabled_optimizers=settings.disabled_optimizers,
        optimized_path=path.with_suffix(".ort"),
        config={"session.save_model_format": "ORT"},
    )


def _described_inputs(graph: ir.Model) -> dict[str, str]:
    described = {}
    for value in graph.graph.inputs:
        if not value.is_initializer():
            dims = "?" if value.shape is None else ", ".join(map(str, value.shape))
            dtype = "" if value.dtype is None else value.dtype.name.lower()
            described[value.name or ""] = f"{dtype}[{dims}]"
    return described
