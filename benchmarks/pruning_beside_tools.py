"""Pruned by three tools to the same latency: what is left of the accuracy.

    python benchmarks/pruning_beside_tools.py                     # the digits classifiers
    python benchmarks/pruning_beside_tools.py minilm [FOLDER]     # a real sentence encoder

onnxsim's `apply_structured_pruning` (pip install onnxsim) goes first, at sparsities of its own; the
latency that it reaches is what onnxopt is asked for, once as it is meant and once as uniform
pruning by magnitude without repair. Where nothing becomes faster, 0.7 of the time is asked for.
onnxsim gets the model as it is, simplified by itself, and cleaned up by onnxopt: whichever it
prunes most of. All results are then optimized by onnxopt and timed beside the original, so
optimized as well.

Digits are fitted on training images without labels and judged on all others; MiniLM on sentences
of docstrings (see pruned_minilm.py). Errors are root mean squares relative to the original's
outputs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

import onnxopt
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.parity.deviation import Reference
from onnxopt.runtime.session import CPU

ROOT = Path(__file__).resolve().parent.parent
# Of widths of 32 and 64 these leave multiples of 8, without which kernels become slower.
_SPARSITIES = (0.25, 0.5)
_OTHERWISE, _FASTER = 0.7, 0.97
_SECONDS = 8.0
_BUDGET = 60.0


class Case(NamedTuple):
    """A model to prune.

    Attributes:
        name: For the table.
        path: The file.
        fitting: Input sets to fit on.
        judging: Others.
        score: Of a model: accuracy, or mean cosine to the original's embeddings.
    """

    name: str
    path: Path
    fitting: Sequence[Mapping[str, NDArray[Any]]]
    judging: Sequence[Mapping[str, NDArray[Any]]]
    score: Callable[[Any], float]


def digits_cases() -> Iterator[Case]:
    sys.path.insert(0, str(ROOT / "models"))
    from digits_data import digits

    from onnxopt.runtime.session import open_session

    data = digits()

    def score(model: Any) -> float:
        (logits,) = open_session(model).run({"image": data.test_images}).values()
        return float(np.mean(logits.argmax(-1) == data.test_labels))

    def sets(images: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
        return [{"image": images[i : i + 8]} for i in range(0, len(images) - 7, 8)]

    for name in ("digits_cnn", "digits_transformer"):
        path = ROOT / "models" / f"{name}.onnx"
        yield Case(name, path, sets(data.train_images), sets(data.test_images), score)


def minilm_cases(folder: Path | None, work: Path) -> Iterator[Case]:
    from export_minilm import PACKAGE, SENTENCES, folder_of
    from pruned_minilm import batches, docstring_sentences, embedded
    from tokenizers import Tokenizer

    folder = folder or folder_of(PACKAGE, work)
    path = folder / "model.onnx"
    if not path.exists():
        path = work / "onnx" / "model.onnx"
        onnxopt.export(folder, path.parent)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding()
    sentences = docstring_sentences()
    fitted = batches(tokenizer, sentences[:768])
    judged = batches(tokenizer, [*sentences[-256:], *SENTENCES])
    wanted = embedded(path, judged)

    def score(model: Any) -> float:
        return float((embedded(model, judged) * wanted).sum(axis=1).mean())

    yield Case("MiniLM", path, fitted, judged, score)


def pruned_by_onnxsim(path: Path, sparsity: float) -> tuple[onnx.ModelProto, str] | None:
    """What onnxsim prunes most of, and the form that it got; None if it prunes nothing."""
    import onnxsim

    given = onnx.load(path)
    cleaned = onnxopt.optimize(path, standard_operators=True, guard="off").model
    forms = {"given": given, "simplified": onnxsim.simplify(given)[0], "cleaned": None}
    best, least, chosen = None, 1.0, ""
    for name, form in forms.items():
        model = ir.to_proto(cleaned) if form is None else form
        found = onnxsim.apply_structured_pruning(model, sparsity=sparsity)
        left = _parameters(found) / _parameters(model)
        print(f"  onnxsim, sparsity {sparsity}, {name}: {left:.1%} of the numbers left", flush=True)
        if left < least:
            best, least, chosen = found, left, name
    return None if best is None else (best, chosen)


def _parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def compare(case: Case) -> None:
    base = onnxopt.optimize(case.path, guard="off").model
    sets = [InputSet(feeds, "judging") for feeds in case.judging]
    reference = Reference(base, sets, CPU)

    def tell(tool: str, model: ir.Model) -> Ratio:
        speed = measure_speed(base, model, sets, _SECONDS)
        error = reference.deviation(model).rms
        time = f"{1 / speed.median:.3f} ({1 / speed.high:.3f} to {1 / speed.low:.3f})"
        print(f"| {case.name} | {tool} | {time} | {error:.3f} | {case.score(model):.4f} |")
        sys.stdout.flush()
        return speed

    tell("original", base)
    shares = []
    for sparsity in _SPARSITIES:
        found = pruned_by_onnxsim(case.path, sparsity)
        if found is None:
            print(
                f"| {case.name} | onnxsim, sparsity {sparsity} | prunes nothing | | |", flush=True
            )
            continue
        model = onnxopt.optimize(found[0], guard="off").model
        speed = tell(f"onnxsim, sparsity {sparsity}, of the {found[1]} model", model)
        if 1 / speed.median < _FASTER:
            shares.append(1 / speed.median)
    for share in shares or [_OTHERWISE]:
        options: dict[str, Any] = {
            "calibration": case.fitting,
            "target_latency": share,
            "budget": _BUDGET,
        }
        for tool, more in (
            ("uniform", {"importance": "l2", "scope": "layer", "repair": False}),
            ("onnxopt", {}),
        ):
            try:
                result = onnxopt.prune(case.path, **options, **more)
            except onnxopt.OnnxOptError as error:
                print(f"| {case.name} | {tool}, {share:.3f} | {error} | | |", flush=True)
                continue
            tell(f"{tool}, {share:.3f} asked for", result.model)


def main() -> None:
    print("| model | tool | time left | error | score |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        wanted = sys.argv[1:]
        if wanted[:1] == ["minilm"]:
            cases = minilm_cases(Path(wanted[1]) if wanted[1:] else None, Path(work))
        else:
            cases = (case for case in digits_cases() if not wanted or case.name in wanted)
        for case in cases:
            compare(case)


if __name__ == "__main__":
    main()
