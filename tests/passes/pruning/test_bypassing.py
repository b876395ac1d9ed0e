"""Removing residual blocks: exact where the branch adds nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.residual import encoder, resnet
from helpers.rewriting import op_types, parse_model, random_feeds, run

from onnxopt.graph.inference import infer_model
from onnxopt.graph.residuals import residual_blocks
from onnxopt.passes.pruning.bypassing import bypass


def _without(model: ir.Model, *places: int) -> ir.Model:
    copy = model.clone()
    infer_model(copy)
    blocks = residual_blocks(copy)
    bypass(copy, [blocks[place] for place in places])
    return copy


@pytest.mark.parametrize(
    ("model", "places", "atol"),
    [
        (encoder(2, silent=("out0", "down1")), (0, 3), 0.0),
        (encoder(2, silent=("out0", "down0")), (0, 1), 0.0),
        (encoder(2, silent=("out0", "down1"), style="skip"), (0, 3), 1e-5),
        # A second normalization of what is normalized is one but for its epsilon.
        (encoder(2, silent=("out0", "down1"), style="post"), (0, 3), 1e-4),
        (encoder(2, silent=("out1",), style="fused"), (2,), 1e-4),
        (resnet(silent=("two0", "bias0")), (0,), 0.0),
        (resnet(silent=("two2", "bias2")), (1,), 0.0),
    ],
)
def test_silent_blocks_go_and_nothing_changes(
    model: ir.Model, places: tuple[int, ...], atol: float
) -> None:
    small = _without(model, *places)
    assert len(small.graph) < len(model.graph)
    assert len(small.graph.initializers) < len(model.graph.initializers)
    feeds = random_feeds(model, {"N": 3})
    np.testing.assert_allclose(run(small, feeds)[0], run(model, feeds)[0], rtol=0, atol=atol)


def test_values_keep_their_names_and_what_is_left_reads_the_entry() -> None:
    model = _without(encoder(1), 0, 1)
    assert op_types(model) == ["Identity", "Identity", "MatMul"]
    assert [value.name for node in model.graph for value in node.outputs] == ["sa0", "sf0", "y"]
    assert set(model.graph.initializers) == {"head"}


def test_an_end_that_is_a_graph_output_keeps_its_name() -> None:
    model = parse_model(
        "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) y = Add(x, a) }",
        {"w": np.eye(8, dtype=np.float32)},
    )
    small = _without(model, 0)
    feeds = random_feeds(model, {"N": 2})
    np.testing.assert_array_equal(run(small, feeds)[0], feeds["x"])
    assert [value.name for value in small.graph.outputs] == ["y"]


def test_a_branch_around_an_if_goes_and_what_another_if_reads_stays() -> None:
    model = parse_model(
        """
        g (float[2,8] x, bool c) => (float[2,8] y, float[2,8] z) {
            a = If (c) <
                then_branch = t () => (float[2,8] bt) { bt = Identity(x) },
                else_branch = e () => (float[2,8] be) { be = Neg(x) }
            >
            b = MatMul(a, w)
            s = Add(x, b)
            m = MatMul(s, v) o = MatMul(m, u) y = Add(s, o)
            z = If (c) <
                then_branch = t2 () => (float[2,8] zt) { zt = Identity(m) },
                else_branch = e2 () => (float[2,8] ze) { ze = Identity(s) }
            >
        }
        """,
        {"w": np.zeros((8, 8), np.float32), **{n: np.eye(8, dtype=np.float32) for n in "vu"}},
    )
    infer_model(model)
    blocks = residual_blocks(model)
    assert [block.end.name for block in blocks] == ["s", "y"]
    small = _without(model, 0)
    assert op_types(small) == ["Identity", "MatMul", "MatMul", "Add", "If"]
    for condition in (True, False):
        feeds = random_feeds(model, {}) | {"c": np.array(condition)}
        for one, other in zip(run(small, feeds), run(model, feeds), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("skip", "kept"),
    [
        ("SkipLayerNormalization(x, b, one, zero, bias)", "LayerNormalization"),
        ("SkipSimplifiedLayerNormalization(x, b, one, bias)", "SimplifiedLayerNormalization"),
    ],
)
def test_the_bias_of_a_fused_sum_goes_with_the_branch_and_the_normalization_stays(
    skip: str, kept: str
) -> None:
    """The normalized value is only a graph output: nodes read the sum."""
    model = parse_model(
        f"""g (float[2,3,8] x) => (float[2,3,8] n, float[2,3,8] y) {{
            a = MatMul(x, w) b = Relu(a) n, n1, n2, s = com.microsoft.{skip} y = Relu(s)
        }}""",
        {
            "w": np.eye(8, dtype=np.float32),
            "one": np.linspace(1, 2, 8, dtype=np.float32),
            **({"zero": np.zeros(8, np.float32)} if "zero" in skip else {}),
            "bias": np.full(8, 7, np.float32),
        },
    )
    small = _without(model, 0)
    assert op_types(small) == [kept, "Identity", "Relu"]
    assert not {"w", "bias"} & set(small.graph.initializers)
    feeds = random_feeds(model, {})
    normalized, rest = run(small, feeds)
    np.testing.assert_array_equal(rest, np.maximum(feeds["x"], 0))
    silent = model.clone()
    for name in ("w", "bias"):
        value = silent.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(np.zeros_like(value.const_value.numpy()), name=name)
    np.testing.assert_allclose(normalized, run(silent, feeds)[0], atol=1e-5)


def test_a_fused_sum_of_a_computed_bias_has_to_stay() -> None:
    model = parse_model(
        """g (float[2,3,8] x, float[8] d) => (float[2,3,8] y) {
            c = Neg(d) b = MatMul(x, w) n, n1, n2, y =
                com.microsoft.SkipSimplifiedLayerNormalization(x, b, one, c)
        }""",
        {"w": np.eye(8, dtype=np.float32), "one": np.ones(8, np.float32)},
    )
    infer_model(model)
    (block,) = residual_blocks(model)
    assert "adds 'c' to the sum" in block.obstacle
