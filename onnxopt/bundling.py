"""`bundle` and `verify`: a folder with a model, the options it was measured with, and the proof."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxopt.core.errors import InvalidInputError, ParityError, SaveError
from onnxopt.graph.loading import load_model
from onnxopt.graph.mapped import data_files
from onnxopt.graph.staged_folder import save_errors, staged_folder
from onnxopt.graph.tensors import all_tensors
from onnxopt.optimizing import optimize
from onnxopt.targets import Target, as_target

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxopt.core.report import Report
    from onnxopt.runtime.bundles.manifest import Manifest
    from onnxopt.runtime.bundles.verifying import Verification

MODEL = "model.onnx"
# What a bundle has beside its model, in its own folder.
_OWN = ("README.md", "bundle.json", "model.onnx", "model.ort", "samples")
PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle that was made.

    Attributes:
        folder: Where it is.
        manifest: Its record.
        report: What `optimize` did; None if the model was bundled as it is.
        archive: The .zip of it, if one was asked for.
    """

    folder: Path
    manifest: Manifest
    report: Report | None = None
    archive: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "folder": str(self.folder),
            "archive": None if self.archive is None else str(self.archive),
            "bundle": self.manifest.to_dict(),
            "report": None if self.report is None else self.report.to_dict(),
        }

    def to_text(self, *, verbose: bool = False) -> str:
        """The bundle for people, after what `optimize` did."""
        from onnxopt.runtime.bundles.summary import summary_lines

        lines = [] if self.report is None else [self.report.to_text(verbose=verbose), ""]
        lines += summary_lines(self.manifest, verbose=verbose)
        lines += [f"wrote {path}" for path in (self.folder, self.archive) if path is not None]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What a bundle is made with.

    Attributes:
        inputs: The user's data for samples and timing (see `onnxopt.optimize`).
        tune: Search for faster session options.
        seconds: How long to time the result; 0 leaves it out.
        ort_format: Add the model in ONNX Runtime's own format.
        archive: Write a .zip beside the folder.
        overwrite: Replace an earlier bundle.
        max_error: Largest error, relative to an output's scale, that a quantized or pruned model
            may have against its original; by default that of rounding.
        command: The command line that made it, for the record.
    """

    inputs: Any = None
    tune: bool = False
    seconds: float = 3.0
    ort_format: bool = False
    archive: bool = False
    overwrite: bool = False
    max_error: float | None = None
    command: Sequence[str] = ()


def bundle(
    model: PathLike,
    folder: PathLike,
    *,
    original: PathLike | None = None,
    target: Target | str | None = None,
    options: BundleOptions | None = None,
) -> Bundle:
    """Bundles a model as it is, byte by byte, with its external data.

    Args:
        model: The file of the model.
        folder: The bundle to make.
        original: What the model was made of: the bundle then has parity with it, and the speed-up.
        target: Where it will run; by default what the installed ONNX Runtime is built for.
        options: What else belongs to the bundle.

    Returns:
        The bundle.

    Raises:
        OnnxOptError: A file cannot be read or written, or the model does not run.
        ParityError: It is not at parity with `original`; nothing was written.
    """
    chosen = options or BundleOptions()
    source = Path(model)
    with _new_folder(folder, chosen) as stage:
        graph = load_model(source)
        _copy_model(source, graph, stage)
        facts: dict[str, Any] = {"passes": None}
        reference = None
        if original is not None:
            reference = Path(original)
            facts["original"] = reference.name
            facts["parity"] = _parity(reference, stage / MODEL, chosen)
        manifest = _complete(stage, source, reference, as_target(target), chosen, facts)
    return Bundle(Path(folder), manifest, archive=_archive(folder, chosen))


def optimize_to_bundle(
    model: PathLike,
    folder: PathLike,
    *,
    options: BundleOptions | None = None,
    target: Target | str | None = None,
    **arguments: Any,
) -> Bundle:
    """Optimizes a model and bundles the result.

    Args:
        model: The file of the model.
        folder: The bundle to make.
        options: What else belongs to the bundle; its inputs are those of the parity run as well.
        target: Where it will run.
        arguments: Of `onnxopt.optimize`.

    Raises:
        OnnxOptError: As `onnxopt.optimize` and `bundle`.
    """
    chosen = options or BundleOptions()
    aim = as_target(target)
    source = Path(model)
    with _new_folder(folder, chosen) as stage:
        report = optimize(
            source, stage / MODEL, inputs=chosen.inputs, target=aim, **arguments
        ).report
        report.output = ""
        facts = {
            "passes": ",".join(dict.fromkeys(record.name for record in report.records)),
            "parity": report.parity,
            "guard": None if report.guard is None else report.guard.to_dict(),
        }
        manifest = _complete(stage, source, source, aim, chosen, facts)
    return Bundle(Path(folder), manifest, report, _archive(folder, chosen))


def verify(folder: PathLike) -> Verification:
    """Checks that a bundle, a folder or a .zip of one, is what it was and computes the same here.

    Raises:
        InvalidInputError: It is no bundle, or its record cannot be read.
    """
    from onnxopt.runtime.bundles.archive import extract
    from onnxopt.runtime.bundles.verifying import verify_bundle

    path = Path(folder)
    if not path.is_file():
        return verify_bundle(path)
    with tempfile.TemporaryDirectory() as scratch:
        extract(path, Path(scratch))
        return dataclasses.replace(verify_bundle(scratch), folder=str(path))


@contextmanager
def _new_folder(folder: PathLike, options: BundleOptions) -> Iterator[Path]:
    """The folder in the making; nothing is left of it after an error."""
    from onnxopt.runtime.bundles.archive import pack
    from onnxopt.runtime.bundles.manifest import MANIFEST
    from onnxopt.runtime.library import require_runtime

    require_runtime()
    target = Path(folder)
    packed = _archive(target, options)
    if packed and os.path.lexists(packed) and not (options.overwrite and packed.is_file()):
        raise SaveError(f"{packed} exists; move it away, or give --overwrite if it is a file")
    with staged_folder(target, marker=MANIFEST, overwrite=options.overwrite) as stage:
        yield stage
    if packed:
        with save_errors(packed):
            pack(target, packed)


def _archive(folder: PathLike, options: BundleOptions) -> Path | None:
    """Where the .zip goes, if one is asked for: beside the folder."""
    target = Path(folder)
    return target.with_name(f"{target.absolute().name}.zip") if options.archive else None


def _complete(
    stage: Path,
    source: Path,
    reference: Path | None,
    target: Target,
    options: BundleOptions,
    facts: dict[str, Any],
) -> Manifest:
    """Measures the model in the folder and writes everything else beside it."""
    from onnxopt.runtime.bundles.making import complete_bundle
    from onnxopt.runtime.bundles.manifest import hash_file
    from onnxopt.runtime.saved_options import saved_options
    from onnxopt.runtime.session_settings import SessionSettings

    facts["source"] = {"name": source.name, **dataclasses.asdict(hash_file(source))}
    facts["target"] = str(target)
    facts["command"] = list(options.command)
    return complete_bundle(
        stage,
        MODEL,
        dataclasses.replace(
            saved_options(load_model(stage / MODEL)) or SessionSettings(),
            provider=target.provider,
            threads=target.threads,
        ),
        original=reference,
        inputs=options.inputs,
        tune=options.tune,
        seconds=options.seconds,
        ort_format=options.ort_format,
        facts=facts,
    )


def _parity(original: Path, model: Path, options: BundleOptions) -> dict[str, Any]:
    from onnxopt.runtime.inputs.plan import plan_inputs
    from onnxopt.runtime.parity.verify_saved import verify_saved

    found = verify_saved(model, original, plan_inputs(load_model(original), options.inputs))
    if found.status != "failed":
        return {**found.to_dict(), "summary": found.summary()}
    errors = [one.difference.relative for one in found.outputs if not one.difference.broken]
    worst = max(errors, default=math.inf) if len(errors) == len(found.outputs) else math.inf
    if options.max_error is None or not worst <= options.max_error:
        reason, advice = found.reasons[0], ""
        if math.isfinite(worst) and options.max_error is None:
            advice = "; allow it with max_error (--max-error)"
        elif math.isfinite(worst):
            reason = f"relative error {worst:.2g} over the {options.max_error:g} allowed"
        if options.inputs is None:
            advice += "; measured on synthesized inputs: give real ones (--inputs)"
        raise ParityError(f"not at parity with {original}: {reason}{advice}")
    summary = f"largest relative error {worst:.2g} of the original's outputs"
    return {**found.to_dict(), "summary": f"{summary} ({options.max_error:g} allowed)"}


def _copy_model(source: Path, graph: ir.Model, stage: Path) -> None:
    """The model and its external data, as they are."""
    folder = source.parent
    with save_errors(stage):
        shutil.copyfile(source, stage / MODEL)
        for path in data_files(all_tensors(graph)):
            name = Path(path).relative_to(folder)
            if name.parts[0] in _OWN:
                raise InvalidInputError(
                    f"{source}: its external data is called {name.as_posix()}, a name that "
                    "bundles use; save the model with another one"
                )
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, stage / name)


__all__ = ["Bundle", "BundleOptions", "bundle", "optimize_to_bundle", "verify"]
