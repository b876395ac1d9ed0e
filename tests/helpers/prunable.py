"""Small graphs with every structure that axes are followed through."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers.rewriting import parse_model
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.int64]

_RNG = np.random.default_rng(7)


def _weights(**shapes: tuple[int, ...]) -> dict[str, Array]:
    return {n: _RNG.standard_normal(s).astype(np.float32) * 0.3 for n, s in shapes.items()}


def _ints(**numbers: list[int]) -> dict[str, Array]:
    return {name: np.array(items, np.int64) for name, items in numbers.items()}


def _model(text: str, weights: dict[str, Array]) -> ir.Model:
    model: ir.Model = parse_model(text, weights)
    return model


def residual_cnn() -> ir.Model:
    """Dense, depthwise and grouped convolutions, a residual, Concat, Split, Flatten, Gemm."""
    return _model(
        """
        g (float[N, 3, 6, 6] x) => (float[N, 5] y) {
            a0 = Conv<pads=[1,1,1,1]>(x, wa, ba)
            a = Relu(a0)
            b0 = BatchNormalization(a, s, o, m, v)
            b1 = Conv<pads=[1,1,1,1], group=8>(b0, wd)
            b = Add(a, b1)
            c = Conv(b, wc)
            d = Conv(b, we)
            e = Concat<axis=1>(c, d)
            f, h = Split<axis=1>(e, sizes)
            k = Conv<group=4>(f, wg)
            l = Concat<axis=1>(k, h)
            n = MaxPool<kernel_shape=[2,2], strides=[2,2]>(l)
            q = Flatten(n)
            y = Gemm<transB=1>(q, wf, bf)
        }
        """,
        {
            **_weights(wa=(8, 3, 3, 3), ba=(8,), s=(8,), o=(8,), m=(8,), wd=(8, 1, 3, 3)),
            "v": np.ones(8, np.float32),
            **_weights(wc=(6, 8, 1, 1), we=(10, 8, 1, 1), wg=(8, 2, 1, 1)),
            **_weights(wf=(5, 16 * 9), bf=(5,)),
            **_ints(sizes=[8, 8]),
        },
    )


def upsampling() -> ir.Model:
    """Transposed convolutions, dense and in groups, as in decoders of images."""
    return _model(
        """
        g (float[N, 3, 4, 4] x) => (float[N, 2, 16, 16] y) {
            a0 = Conv(x, wa)
            a = Relu(a0)
            b0 = ConvTranspose<group=1, strides=[2,2], kernel_shape=[2,2]>(a, wb, bb)
            b = Relu(b0)
            c0 = ConvTranspose<group=4, strides=[2,2], kernel_shape=[2,2]>(b, wc)
            c = Relu(c0)
            y = Conv(c, wd)
        }
        """,
        _weights(wa=(6, 3, 1, 1), wb=(6, 8, 2, 2), bb=(8,), wc=(8, 3, 2, 2), wd=(2, 12, 1, 1)),
    )


def attention() -> ir.Model:
    """Four heads with a packed projection on a dynamic batch, and a gated feed-forward."""
    return _model(
        """
        g (float[N, 5, 16] x) => (float[N, 5, 16] y) {
            p0 = MatMul(x, wp)
            p = Add(p0, bp)
            r = Reshape(p, packed)
            t = Transpose<perm=[2,0,3,1,4]>(r)
            q = Gather<axis=0>(t, zero)
            k = Gather<axis=0>(t, one)
            v = Gather<axis=0>(t, two)
            kt = Transpose<perm=[0,1,3,2]>(k)
            qk = MatMul(q, kt)
            a = Softmax<axis=-1>(qk)
            av = MatMul(a, v)
            o0 = Transpose<perm=[0,2,1,3]>(av)
            o = Reshape(o0, joined)
            z0 = MatMul(o, wo)
            z = Add(x, z0)
            u = MatMul(z, wu)
            s = Sigmoid(u)
            us = Mul(u, s)
            w = MatMul(z, ww)
            g = Mul(us, w)
            d = MatMul(g, wd)
            y = Add(z, d)
        }
        """,
        {
            **_weights(wp=(16, 48), bp=(48,), wo=(16, 16), wu=(16, 24), ww=(16, 24), wd=(24, 16)),
            **_ints(packed=[-1, 5, 3, 4, 4], joined=[-1, 5, 16]),
            **{n: np.array(i, np.int64) for i, n in enumerate(("zero", "one", "two"))},
        },
    )


def shared_heads() -> ir.Model:
    """Two key/value heads for four query heads, repeated by Expand."""
    return _model(
        """
        g (float[N, 5, 8] x) => (float[N, 5, 8] y) {
            q0 = MatMul(x, wq)
            q1 = Reshape(q0, sq)
            q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)
            k1 = Reshape(k0, sk)
            k2 = Transpose<perm=[0,2,1,3]>(k1)
            k3 = Unsqueeze(k2, two)
            k4 = Expand(k3, repeated)
            k = Reshape(k4, heads)
            kt = Transpose<perm=[0,1,3,2]>(k)
            qk = MatMul(q, kt)
            a = Softmax<axis=-1>(qk)
            av = MatMul(a, k)
            o0 = Transpose<perm=[0,2,1,3]>(av)
            o = Reshape(o0, joined)
            y = MatMul(o, wo)
        }
        """,
        {
            **_weights(wq=(8, 16), wk=(8, 8), wo=(16, 8)),
            **_ints(sq=[-1, 5, 4, 4], sk=[-1, 5, 2, 4], two=[2], repeated=[1, 2, 2, 5, 4]),
            **_ints(heads=[-1, 4, 5, 4], joined=[-1, 5, 16]),
        },
    )


def recurrence() -> ir.Model:
    """An LSTM whose hidden states feed a projection."""
    return _model(
        """
        g (float[N, 2, 6] x) => (float[N, 2, 3] y) {
            w = LSTM<hidden_size=8>(x, wi, wr, bi)
            s = Squeeze(w, one)
            y = MatMul(s, wo)
        }
        """,
        {
            **_weights(wi=(1, 32, 6), wr=(1, 32, 8), bi=(1, 64), wo=(8, 3)),
            **_ints(one=[1]),
        },
    )


GRAPHS = (residual_cnn, upsampling, attention, shared_heads, recurrence)
