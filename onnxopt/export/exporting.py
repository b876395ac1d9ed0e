"""`export`: read the source, try the exporters, check them against PyTorch, save the best."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError, OnnxOptError, ParityError
from onnxopt.export.capturing import output_to
from onnxopt.export.checking import Checker
from onnxopt.export.choosing import Candidate, choose, try_exporter
from onnxopt.export.doubts import doubts
from onnxopt.export.exporters import DEFAULT_OPSET, EXPORTERS, Job, find_exporters
from onnxopt.export.folders import RECORD, copy_companions, copy_log, write_record
from onnxopt.export.masking import exportable_masks
from onnxopt.export.parts import Part
from onnxopt.export.references import run_references
from onnxopt.export.requirements import require_packages, versions
from onnxopt.export.result import ExportedFile, ExportResult
from onnxopt.export.sources import Loaded, kind_of, load_source
from onnxopt.graph.saving import save_model
from onnxopt.graph.staged_folder import check_folder, staged_folder
from onnxopt.runtime.library import require_runtime
from onnxopt.runtime.session import SavedFile

Say = Callable[[str], None]


class CannotExportError(OnnxOptError):
    """No exporter made a model that computes what PyTorch computes; nothing was written."""


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    exporter: str = "auto",
    opset: int | None = None,
    optimize: bool = False,
    overwrite: bool = False,
    say: Say | None = None,
) -> ExportResult:
    """Exports a PyTorch or Hugging Face model to a folder, checked against PyTorch.

    Args:
        source: A Hugging Face folder or hub id; `module:function` or `file.py:function` that
            returns a module and example inputs; a saved `torch.export` program (.pt2).
        output: The folder to make.
        task: What a Hugging Face model is exported for; by default what its architecture says.
        exporter: "dynamo", "torchscript", "optimum", or "auto" to try those that apply and keep
            the best by parity, then by latency after optimization.
        opset: Version of the default operator domain.
        optimize: Optimize the models as `onnxopt.optimize` does, and check them once more.
        overwrite: Replace an earlier export.
        say: Told what is being done, a line each.

    Returns:
        The files, what each exporter did, and parity.

    Raises:
        InvalidInputError: The source cannot be read.
        MissingDependencyError: A package is needed; the message names the extra.
        CannotExportError: No exporter succeeded. The exporters' own output is in the file that the
            message names.
        SaveError: The folder cannot be written.
    """
    text, target = os.fspath(source), Path(output)
    if exporter not in ("auto", *EXPORTERS):
        raise InvalidInputError(f"exporter is 'auto' or one of {EXPORTERS}, not {exporter!r}")
    kind = kind_of(text)
    check_folder(target, marker=RECORD, overwrite=overwrite)
    require_packages(kind, exporter)
    require_runtime()
    say = say or (lambda line: None)
    with tempfile.TemporaryDirectory(prefix="onnxopt-export-") as work:
        log = Path(work) / "export.log"
        run = _Run(text, target, exporter, opset or DEFAULT_OPSET, Path(work), log, say)
        start = time.perf_counter()
        with exportable_masks():
            say("loading the model")
            with output_to(log):
                loaded = load_source(text, task)
            exported = run.parts(loaded)
        return run.save(loaded, exported, optimize=optimize, overwrite=overwrite, start=start)


@dataclasses.dataclass
class _Exported:
    """A part with the candidate that is kept."""

    file: str
    checker: Checker
    candidates: list[Candidate]
    best: Candidate
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class _Run:
    """One export."""

    source: str
    target: Path
    exporter: str
    opset: int
    work: Path
    log: Path
    say: Say

    def parts(self, loaded: Loaded) -> list[_Exported]:
        """Exports every part."""
        weight_bytes = _weight_bytes(loaded.parts)
        job = Job(
            self.opset,
            self.work,
            loaded.model,
            loaded.task,
            len(loaded.parts),
            weight_bytes,
        )
        return [self._part(part, job, loaded) for part in loaded.parts]

    def _part(self, part: Part, job: Job, loaded: Loaded) -> _Exported:
        exporters = find_exporters(self.exporter)
        self.say(f"{part.name}: running PyTorch")
        with output_to(self.log):
            part, runs, notes = run_references(part)
        while True:
            checker = Checker(part, runs, job.weight_bytes)
            candidates: list[Candidate] = []
            for one in exporters:
                self.say(f"{part.name}: exporting with {one.name}")
                with output_to(self.log):
                    candidates.append(try_exporter(one, job, part, checker, candidates))
            self.say(f"{part.name}: choosing")
            with output_to(self.log):
                best = choose(candidates, runs)
            if best is not None:
                notes += doubts(part, loaded, best, candidates)
                file = f"{part.name}.onnx"
                notes += [f"{file}: {note}" for note in best.notes]
                return _Exported(file, checker, candidates, best, notes)
            fixable = [s for group in part.may_fix for s in group if s in part.symbols]
            if not fixable:
                raise self._failure(part, candidates)
            notes.append(
                f"{part.name}: {' and '.join(fixable)} fixed: no exporter kept them dynamic "
                f"({_reasons(candidates)})"
            )
            with output_to(self.log):
                part, runs, more = run_references(part.fixed(fixable))
            notes += more

    def _failure(self, part: Part, candidates: list[Candidate]) -> CannotExportError:
        log = self.target.absolute().parent / f"{self.target.name}.export.log"
        told = f"all that the exporters said is in {log}"
        try:
            shutil.copyfile(self.log, log)
        except OSError as error:
            told = f"what the exporters said cannot be written to {log}: {error.strerror or error}"
        return CannotExportError(
            f"{self.source}: {part.name} cannot be exported: {_reasons(candidates)}; {told}"
        )

    def save(
        self,
        loaded: Loaded,
        exported: list[_Exported],
        *,
        optimize: bool,
        overwrite: bool,
        start: float,
    ) -> ExportResult:
        """Writes the folder, and runs the files in it once more before it appears."""
        notes = [*loaded.notes, *(note for one in exported for note in one.notes)]
        with staged_folder(self.target, marker=RECORD, overwrite=overwrite) as stage:
            self.say("saving")
            for one in exported:
                assert one.best.model is not None
                save_model(one.best.model, stage / one.file)
                for candidate in one.candidates:
                    candidate.model = None
                # From here on PyTorch's memory is not needed: the files are large as well.
                one.checker.forget_module()
            folder, name, model_type = loaded.folder, loaded.task, _model_type(loaded.model)
            loaded.parts.clear()
            object.__setattr__(loaded, "model", None)
            gc.collect()
            if folder is not None:
                from onnxopt.export.hugging_face import companions

                copy_companions(folder, companions(folder), stage)
            files = [self._finish(one, stage, optimize) for one in exported]
            result = ExportResult(
                source=self.source,
                output=os.fspath(self.target),
                task=name,
                model_type=model_type,
                opset=self.opset,
                files=files,
                versions=versions(),
                notes=notes,
                seconds=time.perf_counter() - start,
            )
            write_record(result.to_dict(), stage)
            copy_log(self.log, stage)
        return result

    def _finish(self, one: _Exported, stage: Path, optimize: bool) -> ExportedFile:
        """Checks a saved file, optimizes it if that is asked for, and checks it again."""
        path = stage / one.file
        optimized = None
        if optimize:
            from onnxopt.optimizing import optimize as run_optimize

            self.say(f"{one.file}: optimizing")
            optimized = run_optimize(path, path).report.to_dict()
        self.say(f"{one.file}: checking the file")
        complaint, figures = one.checker.check(SavedFile(str(path)))
        if complaint:
            what = "optimized" if optimize else "saved"
            advice = "; try another --exporter" if one.checker.large and not optimize else ""
            raise ParityError(
                f"{one.file}, once {what}, is not at parity with PyTorch: {complaint}{advice}"
            )
        if not one.best.figures:
            one.best.figures = figures
        layers = None
        if one.best.is_quantized and not one.checker.large:
            layers = one.checker.integer_layers(SavedFile(str(path)))
        return ExportedFile(
            file=one.file,
            exporter=one.best.exporter,
            inputs={i.name: list(i.shape) for i in one.checker.part.inputs},
            outputs={name: list(shape) for name, shape in one.checker.part.axes.items()},
            checked=[str(run.case) for run in one.checker.runs],
            parity=figures,
            candidates=[candidate.to_dict() for candidate in one.candidates],
            optimized=optimized,
            layers=layers,
        )


def _reasons(candidates: list[Candidate]) -> str:
    return "; ".join(f"{one.exporter}: {one.rejected}" for one in candidates)


def _model_type(model: Any) -> str:
    return "" if model is None else str(model.config.model_type)


def _weight_bytes(parts: list[Part]) -> int:
    tensors = {
        weight.data_ptr(): weight.numel() * weight.element_size()
        for part in parts
        for weight in part.module.parameters()
    }
    return sum(tensors.values())
