"""Which share of a model's parameters can be pruned, and is removing units of zeros exact?

python benchmarks/pruning_coverage.py [MODEL ...]   rewrites docs/pruning.md

Each reference model is cleaned up first, as `onnxopt optimize` does. "exact" counts weights with an
axis in a group over which no normalization averages, "with vocabulary" also tables whose rows can
go by a list of tokens, as outputs over the vocabulary. For the error, a fifth of the
units of each exact group is set to zero and removed again; it is the largest difference over the
largest output.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "models"), str(ROOT / "tests")]

from cache import materialize  # noqa: E402
from helpers.zeroing import zero_units  # noqa: E402
from registry import model as reference  # noqa: E402

import onnxopt  # noqa: E402
from onnxopt.core.names import Names  # noqa: E402
from onnxopt.graph.axes.groups import find_groups  # noqa: E402
from onnxopt.passes.pruning import RemoveDeadUnits  # noqa: E402
from onnxopt.passes.pruning.unsharing import unshare  # noqa: E402
from onnxopt.passes.pruning.vocabulary import vocabulary_tables  # noqa: E402
from onnxopt.runtime.inputs.plan import plan_inputs  # noqa: E402
from onnxopt.runtime.session import open_session  # noqa: E402

MODELS = (
    "resnet50_ts mobilenetv2_dynamo convnext_tiny_dynamo swin_tiny_ts vit_tiny_dynamo minilm_ts "
    "gpt2_dynamo gpt2_ts llama168m_dynamo fpn_dynamo fpn_ts digits_cnn digits_transformer"
)
START, END = "<!-- coverage -->", "<!-- /coverage -->"


def coverage(
    model: ir.Model, changeable: Collection[str] = (), free_rows: Collection[str] = ()
) -> tuple[float, float, int]:
    """Shares of parameters in groups, and in groups that are exact; the number of groups."""
    groups = find_groups(model, changeable=changeable, free_rows=free_rows)
    every = {item.value for group in groups for item in group.slices}
    exact = {i.value for g in groups if not g.statistics for i in g.slices}
    sizes = {v: v.const_value.size for v in groups.weights() if v.const_value is not None}
    total = sum(sizes.values())
    return (
        sum(sizes[v] for v in every) / total,
        sum(sizes[v] for v in exact) / total,
        len(groups),
    )


def row(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        model = onnxopt.optimize(materialize(reference(name)), guard="off").model
        unshare(model, Names(model))
        outputs = {value.name or "" for value in model.graph.outputs}
        every, exact, count = coverage(model.clone())
        tables = vocabulary_tables(model)
        words = {out for out in outputs if tables and out.startswith("logits")}
        listed, _, _ = coverage(model.clone(), words, tables)
        asked, _, _ = coverage(model.clone(), outputs)
        zeroed = zero_units(model, share=0.2)
        plan = plan_inputs(model)
        feeds = plan.build(plan.wanted(0), 0).feeds
        results = []
        removed = 0
        for step in ("before", "after"):
            if step == "after":
                removed = sum(RemoveDeadUnits()(model).rewrites.values())
            path = Path(folder) / f"{step}.onnx"
            onnxopt.save(model, path)
            results.append(open_session(path).run(feeds))
        error = max(
            float(np.abs(results[0][k] - results[1][k]).max() / np.abs(results[0][k]).max())
            for k in results[0]
        )
    shares = f"{every:.1%} | {exact:.1%} | {listed:.1%} | {asked:.1%}"
    return f"| {name} | {count} | {shares} | {removed} of {zeroed} | {error:.1e} |"


def main() -> None:
    names = sys.argv[1:] or MODELS.split()
    lines = [
        "| model | groups | parameters in groups | exact | with vocabulary | outputs may change "
        "| zeros removed | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        lines.append(row(name))
        print(lines[-1], flush=True)
    page = ROOT / "docs" / "pruning.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    table = "\n".join(lines)
    page.write_text(f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
