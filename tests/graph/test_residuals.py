"""Residual blocks: which sums end one, where it ends, and why it has to stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.residual import encoder, resnet
from helpers.rewriting import parse_model

from onnxopt.graph.inference import infer_model
from onnxopt.graph.residuals import Block, residual_blocks, spans


def _blocks(model: ir.Model) -> list[Block]:
    infer_model(model)
    return residual_blocks(model)


def _ends(blocks: list[Block]) -> list[tuple[Any, Any, str]]:
    return [(block.entry.name, block.end.name, block.obstacle) for block in blocks]


def test_pre_norm_blocks_end_at_their_sums() -> None:
    blocks = _blocks(encoder(2))
    assert _ends(blocks) == [
        ("x", "sa0", ""), ("sa0", "sf0", ""), ("sf0", "sa1", ""), ("sa1", "sf1", "")
    ]  # fmt: skip
    assert [block.is_attention for block in blocks] == [True, False] * 2
    assert {w.name for w in blocks[0].weights} == {"query0", "value0", "out0"}
    assert [len(block.nodes) for block in blocks[:2]] == [9, 5]


def test_post_norm_blocks_end_behind_their_normalizations() -> None:
    assert _ends(_blocks(encoder(1, style="post"))) == [("e", "sa0", ""), ("sa0", "sf0", "")]
    assert _ends(_blocks(encoder(1, style="fused"))) == [("e", "sa0", ""), ("sa0", "sf0", "")]


def test_fused_sums_of_pre_norm_are_found_and_need_their_sum() -> None:
    model = encoder(2, style="skip")
    assert [e[:2] for e in _ends(_blocks(model))] == [
        ("x", "sa0"), ("sa0", "sf0"), ("sf0", "sa1"), ("sa1", "sf1")
    ]  # fmt: skip
    # The head reads the normalized sum instead, as models do in the end.
    model.graph.node(len(model.graph) - 1).replace_input_with(
        0, model.graph.node(len(model.graph) - 2).outputs[0]
    )
    assert "gives no sum" in _blocks(model)[-1].obstacle
    model.opset_imports[""] = 16
    assert "opset 17" in _blocks(model)[0].obstacle


def test_relu_goes_with_the_block_and_projections_are_none() -> None:
    assert _ends(_blocks(resnet())) == [("r0", "r1", ""), ("r2", "r3", "")]


def test_layers_begin_with_attention_when_there_is_any() -> None:
    layers = spans(_blocks(encoder(2)), "layer")
    assert [(s.entry.name, s.end.name, len(s.blocks)) for s in layers] == [
        ("x", "sf0", 2), ("sf0", "sf1", 2)
    ]  # fmt: skip
    assert [len(s.blocks) for s in spans(_blocks(resnet()), "layer")] == [1, 1]
    assert [len(s.blocks) for s in spans(_blocks(encoder(2)), "block")] == [1] * 4


def test_sums_without_weights_of_their_own_are_no_blocks() -> None:
    model = parse_model(
        """
        g (float[N,8] x) => (float[N,8] y, float[N,8] z) {
            h = MatMul(x, w)
            c = Pow(h, three) d = Mul(c, k) i = Add(h, d) t = Tanh(i)
            y = MatMul(t, v)
            p = MatMul(y, u) z = Add(x, p)
        }
        """,
        {
            **{n: np.eye(8, dtype=np.float32) for n in "wvu"},
            "three": np.float32(3),
            "k": np.float32(0.04),
        },
    )
    # x + ... gives an output of the model on the way.
    (block,) = _blocks(model)
    assert block.end.name == "z"
    assert block.obstacle == "it gives graph output 'y'"


def test_caches_of_a_decoder_keep_its_layers() -> None:
    text = """
        g (float[N,S,8] x, float[N,P,8] past) => (float[N,S,8] y, float[N,T,8] present) {{
            k = MatMul(x, w) present_ = Concat<axis=1>(past, k) t = Transpose<perm=[0,2,1]>({k})
            l = MatMul(x, t) s = Softmax<axis=-1>(l) m = MatMul(s, {k}) o = MatMul(m, v)
            y = Add(x, o) {rest}
        }}
        """
    weights = {n: np.eye(8, dtype=np.float32) for n in "wv"}
    given = text.replace("present_", "present")
    (block,) = _blocks(parse_model(given.format(k="present", rest=""), weights))
    assert block.obstacle == "it gives graph output 'present'"
    read = text.replace(", float[N,T,8] present)", ")")
    (block,) = _blocks(parse_model(read.format(k="present_", rest=""), weights))
    assert block.obstacle == "nothing else reads graph input 'past'"


def test_inner_blocks_count_when_blocks_are_nested() -> None:
    model = parse_model(
        """
        g (float[N,8] x) => (float[N,8] y) {
            a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) s = Add(r, b)
            c = MatMul(s, u) y = Add(x, c)
        }
        """,
        {n: np.eye(8, dtype=np.float32) for n in "wvu"},
    )
    assert _ends(_blocks(model)) == [("r", "s", "")]


def test_what_a_subgraph_reads_is_not_the_branchs_own() -> None:
    model = parse_model(
        """
        g (float[N,8] x, bool c) => (float[N,8] y, float[N,8] z) {
            a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) y = Add(x, b)
            z = If (c) <
                then_branch = t () => (float[N,8] zt) { zt = Identity(r) },
                else_branch = e () => (float[N,8] ze) { ze = Neg(r) }
            >
        }
        """,
        {n: np.eye(8, dtype=np.float32) for n in "wv"},
    )
    (block,) = _blocks(model)
    assert {w.name for w in block.weights} == {"v"}
    assert [node.op_type for node in block.nodes] == ["MatMul", "Add"]


@pytest.mark.parametrize(("entry", "found"), [("N,1,8", 0), ("N,M,8", 0), ("N,4,8", 1)])
def test_an_entry_that_broadcasts_makes_no_block(entry: str, found: int) -> None:
    model = parse_model(
        f"""g (float[{entry}] x) => (float[N,4,8] y)
        {{ a = MatMul(x, w) b = Mul(a, k) y = Add(x, b) }}""",
        {"w": np.eye(8, dtype=np.float32), "k": np.ones((1, 4, 8), np.float32)},
    )
    assert len(_blocks(model)) == found


@pytest.mark.parametrize(("sides", "found"), [("c, x", 0), ("x, c", 1)])
def test_a_fused_sum_broadcasts_its_second_side_only(sides: str, found: int) -> None:
    model = parse_model(
        f"""g (float[N,4,8] x) => (float[M,4,8] y) {{
            a = MatMul(x, w) c = Expand(a, k)
            n, n1, n2, s = com.microsoft.SkipLayerNormalization({sides}, one) y = Add(s, n)
        }}""",
        {
            "w": np.eye(8, dtype=np.float32),
            "one": np.ones(8, np.float32),
            "k": np.array([5, 4, 8], np.int64),
        },
    )
    assert len(_blocks(model)) == found
