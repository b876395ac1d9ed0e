"""Does a bundle still hold what it held, and does it compute the same here?"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.graph.mapped import data_files
from onnxopt.graph.tensors import all_tensors
from onnxopt.runtime.bundles.environment import environment_warnings
from onnxopt.runtime.bundles.manifest import (
    MANIFEST,
    Manifest,
    hash_file,
    parse_record,
    read_record,
)
from onnxopt.runtime.bundles.samples import check_samples
from onnxopt.runtime.bundles.seals import broken_seals
from onnxopt.runtime.child import Child, ChildEndedError, all_memory
from onnxopt.runtime.library import load_runtime
from onnxopt.runtime.providers import PROVIDERS

Outcome = Literal["passed", "failed", "skipped"]

_NOT_AS_IT_WAS = 3
# A model that runs longer than this on small samples hangs.
_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: what of, how it went, and what was found."""

    name: str
    outcome: Outcome
    findings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Verification:
    """The checks of a bundle.

    Attributes:
        folder: The bundle.
        checks: In the order they were made.
        warnings: What this machine lacks of the one that it was tuned for.
    """

    folder: str
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True if nothing failed."""
        return all(check.outcome != "failed" for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0, or 3 if something is not what it was."""
        return 0 if self.passed else _NOT_AS_IT_WAS

    def to_dict(self) -> dict[str, Any]:
        """The checks as plain data."""
        return {**dataclasses.asdict(self), "passed": self.passed}

    def to_text(self, *, verbose: bool = False) -> str:
        """The checks for people; `verbose` has all findings."""
        lines = []
        for check in self.checks:
            lines.append(f"{check.name:<9} {check.outcome}")
            shown = check.findings if verbose else check.findings[:5]
            lines += [f"  {finding}" for finding in shown]
            if len(shown) < len(check.findings):
                lines.append(f"  and {len(check.findings) - len(shown)} more (-v)")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines.append(f"{self.folder}: " + ("verified" if self.passed else "not what it was"))
        return "\n".join(lines)


def verify_bundle(folder: str | os.PathLike[str]) -> Verification:
    """Checks a bundle: record, hashes, structure, loading, samples.

    The model is opened and run in a process of its own, so that a crash of ONNX Runtime is a
    finding. Nothing is opened whose hash is wrong.

    Raises:
        InvalidInputError: The folder is no bundle, or its record cannot be read.
    """
    root = Path(folder)
    record = read_record(root)
    where = str(root / MANIFEST)
    changed = _changed_entries(record)
    checks = [Check("record", "failed" if changed else "passed", tuple(changed))]
    manifest = parse_record(record, where)
    wrong = list(_wrong_files(root, manifest))
    checks.append(Check("files", "failed" if wrong else "passed", tuple(wrong)))
    if wrong or changed:
        checks += [Check(name, "skipped") for name in ("structure", "samples")]
        return Verification(str(folder), tuple(checks), ())
    checks.append(_structure(root, manifest))
    if checks[-1].outcome == "passed":
        checks.append(_samples(root))
    recorded = manifest.facts.get("environment")
    recorded = recorded if isinstance(recorded, dict) else {}
    warnings = environment_warnings(recorded, manifest.session.provider)
    warnings += _unlisted(root, manifest)
    return Verification(str(folder), tuple(checks), tuple(warnings))


def _changed_entries(record: dict[str, Any]) -> list[str]:
    seals = record.get("seals")
    own = {name: value for name, value in record.items() if name != "seals"}
    changed = broken_seals(own, seals if isinstance(seals, dict) else {})
    return [f"{name} was changed" for name in changed]


def _wrong_files(root: Path, manifest: Manifest) -> Iterator[str]:
    for name, entry in manifest.files.items():
        path = root / name
        try:
            if not path.exists():
                yield f"{name} is missing"
            elif not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
                yield f"{name} is no file of this folder"
            elif path.stat().st_size != entry.bytes:
                yield f"{name} has {path.stat().st_size} bytes, not {entry.bytes}"
            elif hash_file(path) != entry:
                yield f"{name} was changed: its hash is another one"
        except OSError as error:
            yield f"{name} cannot be read: {error.strerror}"


def _unlisted(root: Path, manifest: Manifest) -> list[str]:
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()} - {
        MANIFEST,
        *manifest.files,
    }
    return [f"{name} is not part of the bundle" for name in sorted(found)[:5]]


def _structure(root: Path, manifest: Manifest) -> Check:
    try:
        model = load_model(root / manifest.model)
    except OnnxOptError as error:
        return Check("structure", "failed", (str(error),))
    used = {Path(path).relative_to(root).as_posix() for path in data_files(all_tensors(model))}
    foreign = sorted(used - manifest.files.keys())
    findings = tuple(f"the model reads {name}, which is not in the record" for name in foreign)
    return Check("structure", "failed" if findings else "passed", findings)


def _samples(root: Path) -> Check:
    try:
        with closing(Child(preload=(__name__,), seconds=_SECONDS, memory=all_memory())) as child:
            count, complaints = child.call(_run_samples, str(root))
    except ChildEndedError as error:
        return Check("samples", "failed", (f"ONNX Runtime {error}",))
    except OnnxOptError as error:
        return Check("samples", "failed", (str(error),))
    if complaints:
        return Check("samples", "failed", tuple(complaints))
    return Check("samples", "passed" if count else "skipped", () if count else ("there are none",))


def _run_samples(root: str) -> tuple[int, list[str]]:
    """Opens the model with the bundle's options and runs it; for the other process."""
    folder = Path(root)
    manifest = parse_record(read_record(folder), MANIFEST)
    here = PROVIDERS[manifest.session.provider][0] in load_runtime().get_available_providers()
    session = manifest.session.open(folder / manifest.model, provider=None if here else "cpu")
    return len(manifest.samples), check_samples(folder, manifest, session)
