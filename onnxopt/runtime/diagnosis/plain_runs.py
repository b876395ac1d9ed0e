"""What it means if the parts of a model are right as they are written, and its outputs are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxopt.runtime.diagnosis.finding import Diagnosis, Finding
from onnxopt.runtime.parity.conversion import Conversion
from onnxopt.runtime.parity.difference import Difference

# Run as written, outputs that are so much closer speak for themselves.
_MUCH_CLOSER = 0.5


def verdict_notes(
    found: Diagnosis,
    findings: Sequence[Finding],
    totals: Mapping[str, Difference],
    conversion: Conversion | None,
) -> list[str]:
    """Where else the difference comes from than from the parts.

    Args:
        found: The verdict on the outputs, with ONNX Runtime's optimizations.
        findings: The parts, faulty ones first.
        totals: How far values are apart without optimizations, by name.
        conversion: What the model was converted to, if it was.
    """
    outputs = [o for o in found.outputs if o.complaint and not o.difference.broken]
    plain = [totals[o.name] for o in outputs if o.name in totals]
    if plain and len(plain) == len(found.outputs) and not any(one.broken for one in plain):
        error = max(map(_size, plain))
        if error < _MUCH_CLOSER * max(_size(o.difference) for o in outputs):
            note = (
                f"without ONNX Runtime's optimizations the outputs differ by {error:.2%} only: the "
                "rest is what these make of the models"
            )
            if conversion is not None and conversion.what == "8 bits":
                note += (
                    ". Its 8-bit kernels saturate on CPUs without VNNI: quantize weights to 7 bits "
                    "there (reduce_range)"
                )
            return [note]
    if any(finding.at_fault for finding in findings):
        return []
    if conversion is not None:
        return [
            f"no part loses more than is usual for {conversion.what}: the error is the sum of many "
            "small ones, or grows on its way"
        ]
    return [
        "no part has an error of its own when run as written: the difference comes from what ONNX "
        "Runtime's optimizations make of the models, or from many small ones"
    ]


def _size(found: Difference) -> float:
    return found.rms if found.kind == "float" else found.mismatches
