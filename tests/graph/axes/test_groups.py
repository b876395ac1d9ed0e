from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from helpers.prunable import attention, recurrence, residual_cnn, shared_heads
from helpers.rewriting import Array, parse_model

from onnxopt.graph.axes.components import connected_components
from onnxopt.graph.axes.groups import Groups, find_groups


def _found(groups: Groups) -> set[tuple[str, int]]:
    return {(group.kind, len(group)) for group in groups}


def _floats(**shapes: tuple[int, ...]) -> dict[str, Array]:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def _ints(**numbers: list[int]) -> dict[str, Array]:
    return {name: np.array(items, np.int64) for name, items in numbers.items()}


def test_components_are_those_of_the_edges_when_chains_are_long() -> None:
    chain = np.arange(0, 998, 2)
    labels = connected_components(1000, [(chain, chain + 2)])
    assert len(set(labels[::2])) == 1
    assert len(set(labels[1::2])) == 500


def test_attention_is_cut_into_heads_and_neurons() -> None:
    assert _found(find_groups(attention())) == {("head", 4), ("neuron", 24)}


def test_key_value_heads_take_their_query_heads_along() -> None:
    (group,) = find_groups(shared_heads())
    assert (group.kind, len(group)) == ("head", 2)
    width = {item.value.name: int((item.units == 0).sum()) for item in group.slices}
    assert width == {"wq": 8, "wk": 4, "wo": 8}


def test_hidden_unit_is_a_row_of_every_gate() -> None:
    (group,) = find_groups(recurrence())
    assert len(group) == 8
    rows = {(i.value.name, i.axis): int((i.units == 0).sum()) for i in group.slices}
    assert rows == {("wi", 1): 4, ("wr", 1): 4, ("wr", 2): 1, ("bi", 1): 8, ("wo", 0): 1}


def test_group_prints_its_slices() -> None:
    text = "\n".join(str(group) for group in find_groups(residual_cnn()))
    assert "wa: 8 x channel" in text
    assert "consumer   wc axis 1, 1 a unit" in text


_PINNED: list[tuple[str, str, Mapping[str, Array], str]] = [
    ("y", "y = MatMul(x, w)", _floats(w=(4, 6)), "graph output 'y' keeps its shape"),
    (
        "z",
        "y = MatMul(x, w) a = Softmax<axis=1>(y) z = MatMul(a, v)",
        _floats(w=(4, 6), v=(6, 2)),
        "mixes the positions",
    ),
    (
        "z",
        "y = MatMul(x, w) a = custom.Magic(y) z = MatMul(y, v)",
        _floats(w=(4, 6), v=(6, 2)),
        "no axes are followed through custom::Magic",
    ),
    (
        "z",
        "y = MatMul(x, w) s = Shape(y) f = Cast<to=1>(s) m = MatMul(y, v) z = Add(m, f)",
        _floats(w=(4, 6), v=(6, 2)),
        "reads its size",
    ),
    (
        "z",
        "y = MatMul(x, w) a = Slice(y, b, e, one, two) z = MatMul(a, v)",
        {**_floats(w=(4, 6), v=(3, 2)), **_ints(b=[0], e=[6], one=[1], two=[2])},
        "mixes the positions",
    ),
]


@pytest.mark.parametrize(("output", "body", "weights", "reason"), _PINNED)
def test_axis_is_pinned_with_the_reason_when_it_cannot_be_pruned(
    output: str, body: str, weights: Mapping[str, Array], reason: str
) -> None:
    text = f"""
        <ir_version: 10, opset_import: ["" : 18, "custom" : 1]>
        g (float[N, 4] x) => (float[N, k] {output}) {{ {body} }}
    """
    groups = find_groups(parse_model(text, weights))
    assert not [item for group in groups for item in group.slices if item.value.name == "w"]
    reasons = [p.reason for p in groups.pinned if p.value.name == "w" and p.axis == 1]
    assert reason in reasons[0]


def test_what_a_subgraph_reads_is_pinned() -> None:
    model = parse_model(
        """
        g (float[N, 4] x, bool c) => (float[N, 2] z) {
            y = MatMul(x, w)
            a = If(c) <
                then_branch = t () => (float[N, 6] p) { p = Relu(y) },
                else_branch = e () => (float[N, 6] q) { q = Neg(y) }
            >
            z = MatMul(y, v)
        }
        """,
        _floats(w=(4, 6), v=(6, 2)),
    )
    groups = find_groups(model)
    assert not len(groups)
    assert any("has a body" in item.reason for item in groups.pinned)


def test_heads_survive_a_merge_with_the_dynamic_batch() -> None:
    model = parse_model(
        """
        g (float[N, 5, 8] x) => (float[N, 5, 8] y) {
            q0 = MatMul(x, wq)
            q1 = Reshape(q0, s1)
            q2 = Transpose<perm=[0,2,1,3]>(q1)
            q = Reshape(q2, s2)
            qt = Transpose<perm=[0,2,1]>(q)
            a0 = MatMul(q, qt)
            a = Softmax<axis=-1>(a0)
            av = MatMul(a, q)
            o0 = Reshape(av, s3)
            o1 = Transpose<perm=[0,2,1,3]>(o0)
            o = Reshape(o1, s4)
            y = MatMul(o, wo)
        }
        """,
        {
            **_floats(wq=(8, 12), wo=(12, 8)),
            **_ints(s1=[-1, 5, 3, 4], s2=[-1, 5, 4], s3=[-1, 3, 5, 4], s4=[-1, 5, 12]),
        },
    )
    assert _found(find_groups(model)) == {("head", 3)}


def test_graph_output_becomes_prunable_when_it_may_change() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (float[N, 6] y) { y = MatMul(x, w) }", _floats(w=(4, 6))
    )
    assert not len(find_groups(model))
    (group,) = find_groups(model, changeable={"y"})
    assert len(group) == 6


def test_empty_graph_has_no_groups() -> None:
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=10)
    assert not len(find_groups(model))


def test_values_without_a_shape_pin_what_they_come_from() -> None:
    model = parse_model(
        """
        g (float[N, 4] x) => (float[N, 3] y) {
            a = MatMul(x, wa)
            s = SplitToSequence<axis=1>(a, half)
            b = SequenceAt(s, zero)
            y = MatMul(b, wb)
        }
        """,
        {
            "wa": np.ones((4, 6), np.float32),
            "wb": np.ones((3, 3), np.float32),
            "half": np.array(3, np.int64),
            "zero": np.array(0, np.int64),
        },
    )
    groups = find_groups(model)
    assert not len(groups)
    assert any("no axes are followed through SplitToSequence" in p.reason for p in groups.pinned)
