"""Exports the small transformers of `fusion_families.py` by all exporters, to count fusions in.

    python benchmarks/fusion_zoo.py FOLDER [NAME ...]

Every family comes from torch's TorchScript exporter ("ts") and from the torch.export based one
("dynamo"), each with both attention implementations of transformers, eager and SDPA, and from
optimum where that is installed and knows the model. Files are named FAMILY.EXPORTER.ATTENTION.onnx;
an export that fails leaves a .failed file with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from fusion_families import FAMILIES, LAYERS, VOCABULARY, Family, Shape

BATCH, SEQUENCE, PAST = 2, 6, 5
_SIZES = {"batch": BATCH, "sequence": SEQUENCE, "past": PAST, "past + sequence": PAST + SEQUENCE}
_ERRORS = (
    RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError,
    ImportError, NotImplementedError, torch.onnx.errors.OnnxExporterError,
)  # fmt: skip


class _Positional(torch.nn.Module):
    """A model with plain tensors as arguments and results."""

    def __init__(self, family: Family, attention: str) -> None:
        super().__init__()
        self.model = family.model(attention)
        self.names, self.output = tuple(family.inputs), family.output
        self.cached = bool(family.key_heads)

    def forward(self, tensors: Any, past: Any) -> Any:
        keywords = dict(zip(self.names, tensors, strict=True))
        if not self.cached:
            return getattr(self.model(**keywords, return_dict=True), self.output)
        pairs = tuple(zip(past[::2], past[1::2], strict=True))
        result = self.model(
            **keywords, past_key_values=hf.DynamicCache.from_legacy_cache(pairs), use_cache=True
        )
        present = result.past_key_values.to_legacy_cache()
        return (result.logits, *(tensor for pair in present for tensor in pair))


def _flat(module: torch.nn.Module, count: int) -> torch.nn.Module:
    """With the arguments in one row, as both exporters want them."""

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            return self.inner(tensors[:count], tensors[count:])

    return Flat().eval()


def export(family: Family, exporter: str, attention: str, path: Path) -> None:
    """Writes one model.

    Args:
        family: The architecture.
        exporter: "ts" for the TorchScript exporter, "dynamo" for that based on torch.export.
        attention: "eager" or "sdpa".
        path: The file.
    """
    past: dict[str, Shape] = {}
    outputs: dict[str, Shape] = {family.output: ("batch", "sequence", "width")}
    if family.key_heads:
        for layer in range(LAYERS):
            for part in ("key", "value"):
                entry = f"{layer}.{part}"
                shape = ("batch", family.key_heads, "past", family.head_size)
                past[f"past_key_values.{entry}"] = shape
                outputs[f"present.{entry}"] = (*shape[:2], "past + sequence", shape[3])
    if "pixel_values" in family.inputs:
        places = ("batch",) if family.output == "pooler_output" else ("batch", "places")
        outputs = {family.output: (*places, "width")}
    inputs = family.inputs | past
    tensors = tuple(_example(name, shape) for name, shape in inputs.items())
    module = _flat(_Positional(family, attention), len(family.inputs))
    axes = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in inputs.items()
    }
    options: dict[str, Any]
    if exporter == "ts":
        axes |= {
            name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
            for name, shape in outputs.items()
        }
        options = {"dynamo": False, "dynamic_axes": axes, "opset_version": 17}
    else:
        shapes = tuple(axes[name] for name in inputs)
        options = {"dynamo": True, "dynamic_shapes": (shapes,), "opset_version": 18,
                   "optimize": False, "external_data": False, "verbose": False}  # fmt: skip
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tensors, path, input_names=list(inputs),
                          output_names=list(outputs), **options)  # fmt: skip


def _example(name: str, shape: Shape) -> torch.Tensor:
    sizes = [_SIZES[size] if isinstance(size, str) else size for size in shape]
    if name == "attention_mask":
        return torch.ones(sizes, dtype=torch.int64)
    if name == "position_ids":
        return torch.arange(PAST, PAST + SEQUENCE).expand(sizes).contiguous()
    if name == "token_type_ids":
        return torch.zeros(sizes, dtype=torch.int64)
    if "ids" in name:
        return torch.randint(3, VOCABULARY, sizes)
    return torch.randn(sizes)


@contextlib.contextmanager
def masks_without_vmap() -> Any:
    """The TorchScript tracer stops at the masks that transformers makes through `torch.vmap`."""
    from transformers.integrations.executorch import sdpa_mask_without_vmap
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

    saved = {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in ("sdpa", "eager")}

    def eager(*args: Any, dtype: Any = torch.float32, **keywords: Any) -> Any:
        keywords |= {"allow_is_causal_skip": False, "allow_torch_fix": False}
        mask = sdpa_mask_without_vmap(*args, **keywords)
        low = torch.finfo(dtype).min
        return torch.where(mask, torch.tensor(0.0, dtype=dtype), low)

    ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", sdpa_mask_without_vmap)
    ALL_MASK_ATTENTION_FUNCTIONS.register("eager", eager)
    assert eager_mask is saved["eager"]
    try:
        yield
    finally:
        for name, function in saved.items():
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, function)


def export_by_optimum(family: Family, path: Path) -> None:
    """Writes one model as optimum exports it."""
    from optimum.exporters.onnx import onnx_export_from_model

    task, name = family.optimum
    model = (family.whole or family.model)("eager")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_export_from_model(model, Path(folder), task=task, do_validation=False)
        path.write_bytes(Path(folder, name).read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    ways = [(exporter, kind) for exporter in ("ts", "dynamo") for kind in ("sdpa", "eager")]
    if importlib.util.find_spec("optimum") is not None:
        ways.append(("optimum", "eager"))
    for family in FAMILIES:
        if arguments.names and family.name not in arguments.names:
            continue
        for exporter, attention in ways:
            path = arguments.folder / f"{family.name}.{exporter}.{attention}.onnx"
            if not (path.exists() or path.with_suffix(".failed").exists()):
                try_export(family, exporter, attention, path)


def try_export(family: Family, exporter: str, attention: str, path: Path) -> None:
    """Exports, or notes why that is not possible."""
    try:
        if exporter == "optimum":
            export_by_optimum(family, path)
        else:
            with masks_without_vmap() if exporter == "ts" else contextlib.nullcontext():
                export(family, exporter, attention, path)
        print(path.name, "ok", flush=True)
    except _ERRORS as error:
        text = f"{type(error).__name__}: {error}"[:2000]
        path.with_suffix(".failed").write_text(text, encoding="utf-8")
        print(path.name, "failed", text[:150].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
