"""FoldConstants on shape computations that are known only in part."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup.constants import FoldConstants

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_reshape_copies_and_infers_when_batch_is_dynamic() -> None:
    model = parse_model(
        """g (float[N,4,6] x) => (float[N,2,12] y)
        { s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, axes)
          t = Concat<axis=0>(u, rest) y = Reshape(x, t) }""",
        {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([2, 12])},
    )
    rewrites = {"known-shape": 1}
    sizes = [{"N": 0}, {"N": 1}, {"N": 3}]
    assert_rewrites(
        FoldConstants(), model, expect=["Reshape"], rewrites=rewrites, rtol=0, atol=0, sizes=sizes
    )
    (shape,) = model.graph.initializers.values()
    assert shape.const_value is not None
    assert shape.const_value.numpy().tolist() == [0, 2, 12]


def test_nothing_is_inferred_when_the_size_is_known_and_the_batch_may_be_empty() -> None:
    """With allowzero the model's own -1 takes an empty batch; beside a copied 0 it would not."""
    model = parse_model(
        """g (float[N,4,1,1] x) => (float[N,4] y)
        { b = Shape<start=0,end=1>(x) t = Concat<axis=0>(b, rest)
          y = Reshape<allowzero=1>(x, t) }""",
        {"rest": np.array([-1])},
    )
    sizes = [{"N": 1}, {"N": 3}]
    rewrites = {"known-shape": 1}
    assert_rewrites(
        FoldConstants(), model, expect=["Reshape"], rewrites=rewrites, rtol=0, atol=0, sizes=sizes
    )
    (shape,) = model.graph.initializers.values()
    assert shape.const_value is not None
    assert shape.const_value.numpy().tolist() == [0, 4]


def test_reshape_infers_the_rest_when_two_dimensions_are_merged() -> None:
    model = parse_model(
        """g (float[N,S,6] x) => (float[M,3] y)
        { s = Shape<end=2>(x) p = ReduceProd<keepdims=1>(s) q = Mul(p, two)
          t = Concat<axis=0>(q, three) y = Reshape(x, t) }""",
        {"two": np.array([2]), "three": np.array([3])},
    )
    assert_rewrites(
        FoldConstants(),
        model,
        expect=["Reshape"],
        rewrites=1,
        rtol=0,
        atol=0,
        sizes=[{"N": 2, "S": 3}, {"N": 1, "S": 1}],
    )


def test_reshape_turns_allowzero_off_when_it_copies() -> None:
    model = parse_model(
        """g (float[N,S,6] x) => (float[N,S,2,3] y)
        { s = Shape<end=2>(x) t = Concat<axis=0>(s, rest) y = Reshape<allowzero=1>(x, t) }""",
        {"rest": np.array([2, 3])},
    )
    sizes = [{"N": 2, "S": 3}, {"N": 0, "S": 3}, {"N": 2, "S": 0}]
    assert_rewrites(
        FoldConstants(), model, expect=["Reshape"], rewrites=1, rtol=0, atol=0, sizes=sizes
    )
    assert "allowzero" not in model.graph[0].attributes


def test_reshape_is_refused_when_two_dimensions_depend_on_the_input() -> None:
    model = parse_model(
        """g (float[N,S,6] x) => (float[S,N,6] y)
        { s = Shape(x) t = Gather(s, order) y = Reshape(x, t) }""",
        {"order": np.array([1, 0, 2])},
    )
    assert_refuses(FoldConstants(), model, "two dimensions of the new shape depend")


def test_reshape_is_refused_when_it_would_infer_beside_a_size_that_can_be_zero() -> None:
    """`[-1, 0, 4]` says the shape, but the runtime cannot infer the -1 if P is 0."""
    model = parse_model(
        """g (float[B,P,8] x) => (float[Q,P,4] y)
        { b = Shape<end=1>(x) p = Shape<start=1,end=2>(x) b2 = Mul(b, two)
          t = Concat<axis=0>(b2, p, four) y = Reshape(x, t) }""",
        {"two": np.array([2]), "four": np.array([4])},
    )
    assert_refuses(FoldConstants(), model, "beside one that can be 0")
    sizes = [{"B": 2, "P": 3}, {"B": 3, "P": 0}, {"B": 0, "P": 2}]
    assert_rewrites(
        FoldConstants(), model, expect=None, rewrites=0, rtol=0, atol=0, sizes=sizes
    )  # fmt: skip


def test_reshape_infers_when_what_it_copies_is_at_least_one() -> None:
    model = parse_model(
        """g (float[B,P,8] x) => (float[Q,R,4] y)
        { c = Concat<axis=1>(x, w) b = Shape<end=1>(c) p = Shape<start=1,end=2>(c) b2 = Mul(b, two)
          t = Concat<axis=0>(b2, p, four) y = Reshape(c, t) }""",
        {"two": np.array([2]), "four": np.array([4]), "w": np.ones((2, 1, 8), np.float32)},
    )
    rewrites = {"known-shape": 1}
    sizes = [{"B": 2, "P": 3}, {"B": 2, "P": 0}]
    assert_rewrites(
        FoldConstants(), model, expect=["Concat", "Reshape"], rewrites=rewrites,
        rtol=0, atol=0, sizes=sizes,
    )  # fmt: skip


def test_reshape_keeps_its_own_minus_one_beside_a_copied_size() -> None:
    """With B = 0 the model itself does not run."""
    model = parse_model(
        """g (float[B,P,8] x) => (float[B,Q] y)
        { b = Shape<end=1>(x) t = Concat<axis=0>(b, rest) y = Reshape(x, t) }""",
        {"rest": np.array([-1])},
    )
    sizes = [{"B": 2, "P": 3}, {"B": 2, "P": 0}]
    assert_rewrites(
        FoldConstants(), model, expect=["Reshape"], rewrites=1, rtol=0, atol=0, sizes=sizes
    )


def test_reshape_infers_an_unknown_entry_when_the_input_is_empty() -> None:
    """It can only be 0, but a constant 0 would copy the 4."""
    model = parse_model(
        """g (float[4,0] x, int64[1] m) => (float[M,4] y)
        { t = Concat<axis=0>(m, four) y = Reshape(x, t) }""",
        {"four": np.array([4])},
    )
    feeds = {"x": np.ones((4, 0), np.float32), "m": np.array([-1])}
    assert_rewrites(
        FoldConstants(), model, expect=["Reshape"], rewrites=1, rtol=0, atol=0, feeds=feeds
    )


def test_expand_is_removed_when_its_shape_is_that_of_the_input() -> None:
    model = parse_model(
        """g (float[N,4] x) => (float[N,4] y)
        { s = Shape(x) e = Expand(x, s) y = Relu(e) }"""
    )
    rewrites = {"remove-expand": 1}
    assert_rewrites(FoldConstants(), model, expect=["Relu"], rewrites=rewrites, rtol=0, atol=0)


def test_expand_gets_ones_when_dimension_is_as_in_the_input() -> None:
    model = parse_model(
        """g (float[N,1] x) => (float[N,4] y)
        { s = Shape<end=1>(x) t = Concat<axis=0>(s, four) y = Expand(x, t) }""",
        {"four": np.array([4])},
    )
    assert_rewrites(FoldConstants(), model, expect=["Expand"], rewrites=1, rtol=0, atol=0)


def test_expand_is_refused_when_the_batch_is_new() -> None:
    model = parse_model(
        """g (float[N,1] x) => (float[N,3] y)
        { s = Shape<end=1>(x) t = Concat<axis=0>(s, three) e = Expand(w, t) y = Add(x, e) }""",
        {"three": np.array([3]), "w": W[:1, :3]},
    )
    assert_refuses(FoldConstants(), model, "the new shape depends on the input's size")


def test_slice_ends_at_infinity_when_the_end_covers_the_dimension() -> None:
    model = parse_model(
        """g (float[N,4] x) => (float[M,4] y)
        { e = Shape<end=1>(x) y = Slice(x, one, e, zero) }""",
        {"one": np.array([1]), "zero": np.array([0])},
    )
    assert_rewrites(FoldConstants(), model, expect=["Slice"], rewrites=1, rtol=0, atol=0)


def test_slice_is_refused_when_the_end_may_lie_inside() -> None:
    model = parse_model(
        """g (float[N] x, float[M] z) => (float[K] y)
        { e = Shape(x) y = Slice(z, zero, e) }""",
        {"zero": np.array([0])},
    )
    assert_refuses(FoldConstants(), model, "the end depends on the input's size")


def test_float_detour_is_folded_when_the_sizes_are_known() -> None:
    model = parse_model(
        """g (float[N,2,4,6] x) => (float[N,2,6,9] y)
        { s = Shape(x) h = Slice(s, two, four) f = Cast<to=1>(h) m = Mul(f, scale)
          r = Floor(m) i = Cast<to=7>(r) b = Slice(s, zero, two) t = Concat<axis=0>(b, i)
          y = Resize(x, , , t) }""",
        {
            "zero": np.array([0]),
            "two": np.array([2]),
            "four": np.array([4]),
            "scale": np.array([1.5], np.float32),
        },
    )
    rewrites = {"known-shape": 1}
    assert_rewrites(FoldConstants(), model, expect=["Resize"], rewrites=rewrites, rtol=0, atol=0)
    assert len(model.graph[0].inputs) == 3


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transformation", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize(("size", "wanted"), [(4, 6), (8, 2), (4, 8)])
def test_resize_samples_the_same_positions_by_scales(
    mode: str, transformation: str, size: int, wanted: int
) -> None:
    model = parse_model(
        f"""g (float[N,2,{size},{size}] x) => (float[N,2,{wanted},{wanted}] y)
        {{ s = Shape<end=2>(x) t = Concat<axis=0>(s, hw)
          y = Resize<mode="{mode}", coordinate_transformation_mode="{transformation}">(x, , , t)
        }}""",
        {"hw": np.array([wanted, wanted])},
    )
    assert_rewrites(FoldConstants(), model, expect=["Resize"], rewrites=1, rtol=0, atol=0)


def test_resize_is_refused_when_the_scale_is_not_exact() -> None:
    model = parse_model(
        """g (float[N,2,3,3] x) => (float[N,2,4,4] y)
        { s = Shape<end=2>(x) t = Concat<axis=0>(s, four) y = Resize(x, , , t) }""",
        {"four": np.array([4, 4])},
    )
    assert_refuses(FoldConstants(), model, "not exact in float32")


def test_cast_like_becomes_cast_when_the_type_is_known() -> None:
    model = parse_model(
        """g (int64[N] n, float[N] x) => (float[N] y)
        { f = CastLike(n, x) c = CastLike(w, x) m = Mul(f, c) y = Add(m, x) }""",
        {"w": np.array([2])},
    )
    rewrites = {"resolve-cast-like": 1, "fold": 1}
    assert_rewrites(
        FoldConstants(), model, expect=["Cast", "Mul", "Add"], rewrites=rewrites, rtol=0, atol=0
    )
