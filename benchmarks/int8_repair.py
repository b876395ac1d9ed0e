"""What every accuracy repair of `onnxopt quantize` gains, each alone and all together.

    python benchmarks/int8_repair.py [FOLDER] [--minilm FOLDER] [--models NAME ...] [--samples 160]

The digits classifiers of this project; with FOLDER, which holds an evalkit.py with real inputs
(FEED_TASKS: task -> model file, feeds, score), those of its models that are named below, and
ViT-Tiny with random weights on its images; with --minilm, a sentence encoder exported by
`onnxopt export`, on sentences of FOLDER/data/stsb. Ranges are chosen by the method of least error,
without bias correction; errors are those of held-out samples: the largest relative to the output's
scale, the root mean square relative to that of the output (mean over samples), and 1 - cosine
(worst sample).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from int8_real_models import load_kit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

from onnxopt.calibration.collecting import collect  # noqa: E402
from onnxopt.calibration.data import open_data  # noqa: E402
from onnxopt.quantizing.forms import METHODS_TRIED, Form, observed_names  # noqa: E402
from onnxopt.quantizing.improving import loss  # noqa: E402
from onnxopt.quantizing.options import QuantizeOptions  # noqa: E402
from onnxopt.quantizing.preparing import prepare  # noqa: E402
from onnxopt.quantizing.repairing import Bases  # noqa: E402
from onnxopt.quantizing.tried import Tried  # noqa: E402
from onnxopt.runtime.parity.deviation import Reference  # noqa: E402
from onnxopt.runtime.session import CPU  # noqa: E402

TASKS = ("squeezenet_fp16", "ultraface_rfb320", "cifar10_cnn", "yolox_nano", "tashkeel_fp32")
REPAIRS: tuple[tuple[str, ...], ...] = (
    (),
    ("bias",),
    ("equalize",),
    ("smooth",),
    ("insert",),
    ("ranges",),
    ("rounding",),
    ("smooth", "insert", "rounding"),
    ("smooth", "insert", "rounding", "bias"),
)
Feeds = list[dict[str, Any]]
Scorer = Callable[[list[list[Any]], Sequence[int]], float]  # outputs, numbers of their samples
Case = tuple[Path, Feeds, Scorer | None]


def digits() -> Iterator[tuple[str, Case]]:
    """The classifiers of this project; measured on test images."""
    from digits_data import digits as load

    from onnxopt.graph.loading import load_model

    data = load()
    images = np.concatenate([data.train_images[:768], data.test_images[:448]])
    labels = np.concatenate([data.train_labels[:768], data.test_labels[:448]])
    for name in ("digits_cnn", "digits_transformer"):
        path = ROOT / "models" / f"{name}.onnx"
        entry = load_model(path).graph.inputs[0].name or ""
        feeds = [{entry: images[i : i + 8]} for i in range(0, len(images), 8)]

        def score(outputs: list[list[Any]], numbers: Sequence[int]) -> float:
            found = [
                np.mean(one[0].argmax(-1) == labels[8 * number : 8 * number + 8])
                for one, number in zip(outputs, numbers, strict=True)
            ]
            return float(np.mean(found))

        yield name, (path, feeds, score)


def tasks(folder: Path, samples: int) -> Iterator[tuple[str, Case]]:
    """Real models with real inputs; ViT-Tiny sees the images of one of them."""
    kit = load_kit(folder)
    assert kit is not None
    for task in TASKS:
        path, make, scorer = kit.FEED_TASKS[task]
        pairs = list(itertools.islice(make(samples), samples))
        metas = [meta for _, meta in pairs]

        def score(
            outputs: list[list[Any]],
            numbers: Sequence[int],
            metas: list[Any] = metas,
            scorer: Any = scorer,
        ) -> float:
            found = scorer(outputs, [metas[number] for number in numbers])
            return float(next(iter(found.values())))

        feeds = [feed for feed, _ in pairs]
        yield task, (folder / path, feeds, score if scorer is not None else None)
    from cache import materialize
    from registry import model

    images = kit.imagenet("pixel_values", "tv")(min(samples, 40))
    yield "vit_tiny", (materialize(model("vit_tiny_ts")), [feed for feed, _ in images], None)


def sentences(encoder: Path, folder: Path, samples: int) -> Case:
    """A sentence encoder on sentences of STS-B, one at a time."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    lines = (folder / "data/stsb/sts-test.csv").read_text(encoding="utf8").splitlines()
    texts = list(dict.fromkeys(part for line in lines for part in line.split("\t")[5:7]))
    feeds = []
    for text in texts[:: max(1, len(texts) // samples)][:samples]:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        other = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feeds.append({"input_ids": ids, **other})
    return encoder / "model.onnx", feeds, None


def measure(name: str, case: Case, kinds: Sequence[str]) -> None:
    """Prints the rows of one model."""
    path, feeds, score = case
    options = QuantizeOptions(mode="static")
    model = prepare(path, options, {}).work
    feeds = [{name: _single(array) for name, array in one.items()} for one in feeds]
    data = open_data(feeds, model)
    calibrating, measuring = data.split(56 if score is not None else 16, share=3)
    table = collect(model, observed_names(model), data, samples=calibrating)
    bases = Bases(model, options, table, data, calibrating)
    reference = Reference(model, [data[index] for index in measuring], CPU)

    def build(form: Form) -> tuple[Tried, float, float | None] | None:
        start = time.process_time()
        basis = bases.of(form)
        if basis is None:
            return None
        tried = Tried(form, *form.build(basis, options))
        seconds = time.process_time() - start
        outputs: list[list[Any]] = []
        tried.deviation = reference.deviation(
            tried.model, watch=lambda _, found: outputs.append(list(found.values()))
        )
        return tried, seconds, None if score is None else score(outputs, measuring)

    if score is not None:
        exact = [list(one.values()) for one in reference.outputs]
        print(f"| {name} | float | | | | {score(exact, measuring):.4f} | |", flush=True)
    for kind in kinds:
        methods = (None,) if kind == "dynamic" else METHODS_TRIED
        plain = [build(Form(kind, method)) for method in methods]  # type: ignore[arg-type]
        base = min((one[0] for one in plain if one is not None), key=loss).form
        for repairs in REPAIRS:
            corrected = "bias" in repairs
            wanted = tuple(one for one in repairs if one != "bias")
            if kind == "dynamic" and "ranges" in wanted:
                continue
            # Where one changes nothing, what comes after it has nothing to stand on.
            usable = tuple(one for one in wanted if bases.of(replace(base, repairs=(one,))))
            if wanted and not usable:
                print(f"| {name} | {kind}, {' '.join(repairs)} | nothing to change | | | | |")
                continue
            found = build(replace(base, corrected=corrected, repairs=usable))
            assert found is not None
            one, seconds, accuracy = found
            assert one.deviation is not None
            label = f"{kind} ({base.method or 'dynamic'})" if not repairs else " ".join(repairs)
            text = "" if accuracy is None else f"{accuracy:.4f}"
            print(
                f"| {name} | {label} | {one.deviation.error:.4f} | {one.deviation.typical:.4f} "
                f"| {1 - one.deviation.cosine:.6f} | {text} | {seconds:.0f} |",
                flush=True,
            )


def _single(array: Any) -> Any:
    """float16 inputs as those of the model raised to float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--kinds", nargs="+", default=["static"])
    arguments = parser.parse_args()
    print("| model | repair | largest error | rms | 1 - cosine | accuracy | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    cases = [digits()]
    if arguments.folder is not None:
        cases.append(tasks(arguments.folder, arguments.samples))
        if arguments.minilm is not None:
            encoder = sentences(arguments.minilm, arguments.folder, arguments.samples)
            cases.append(iter([("minilm", encoder)]))
    for name, case in itertools.chain.from_iterable(cases):
        if not arguments.models or name in arguments.models:
            measure(name, case, arguments.kinds)


if __name__ == "__main__":
    main()
