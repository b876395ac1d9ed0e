"""What masks cost and save: error, compressed size, speed in ONNX Runtime, and sparse storage.

    python benchmarks/masked_weights.py                     # the digits classifiers
    python benchmarks/masked_weights.py minilm [FOLDER]     # a real sentence encoder

"speed" is that of the masked model against the same model without zeros. "sparse file" is the size
of the file with its masked weights as `sparse_initializer` (values and int64 positions, which is
what onnx's checker takes), as a share of the dense file, and then both compressed by zlib.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from pruning_beside_tools import Case, digits_cases, minilm_cases

import onnxopt
from onnxopt.runtime.session import open_session

_MASKS = (("unstructured", 0.5), ("unstructured", 0.8), ("2:4", 0.5))
_ZEROS = 0.4  # of a weight from which on it is stored sparse


def sparse_file(model: ir.Model, case: Case) -> str:
    """Sizes with sparse initializers against dense ones, plain and compressed, if it runs."""
    dense = ir.to_proto(model)
    sparse = onnx.ModelProto.FromString(dense.SerializeToString())
    for tensor in list(sparse.graph.initializer):
        array = onnx.numpy_helper.to_array(tensor)
        places = np.flatnonzero(array)
        if len(places) > (1 - _ZEROS) * array.size or array.dtype != np.float32:
            continue
        values = onnx.numpy_helper.from_array(array.reshape(-1)[places], tensor.name)
        indices = onnx.numpy_helper.from_array(places.astype(np.int64))
        stored = onnx.SparseTensorProto(values=values, indices=indices, dims=array.shape)
        sparse.graph.sparse_initializer.append(stored)
        sparse.graph.initializer.remove(tensor)
    files = [one.SerializeToString() for one in (sparse, dense)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sparse.onnx"
        path.write_bytes(files[0])
        import onnxruntime as ort

        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, dict(case.judging[0]))
    wanted = list(open_session(model).run(case.judging[0]).values())
    alike = all(np.allclose(a, b, atol=1e-4) for a, b in zip(found, wanted, strict=True))
    packed = [zlib.compress(file) for file in files]
    plain_share, packed_share = (len(one[0]) / len(one[1]) for one in (files, packed))
    return f"{plain_share:.2f}, compressed {packed_share:.2f}" + (
        "" if alike else " (outputs differ)"
    )


def main() -> None:
    print("| model | mask | importance | error | score | compressed | speed | sparse file |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as work:
        is_minilm = sys.argv[1:2] == ["minilm"]
        folder = Path(sys.argv[2]) if sys.argv[2:] else None
        for case in minilm_cases(folder, Path(work)) if is_minilm else digits_cases():
            for pattern, sparsity in _MASKS:
                for importance in ("l2", "activation", "hessian"):
                    result = onnxopt.mask_weights(
                        case.path,
                        calibration=case.fitting,
                        pattern=pattern,
                        sparsity=sparsity,
                        importance=importance,
                    )
                    report = result.report
                    assert report.error is not None
                    assert report.speed is not None
                    before, after = report.compressed
                    is_last = importance == "hessian"
                    print(
                        f"| {case.name} | {pattern} {sparsity} | {importance} "
                        f"| {report.error.rms:.3f} | {case.score(result.model):.4f} "
                        f"| {after / before:.3f} | {report.speed.median:.3f} "
                        f"| {sparse_file(result.model, case) if is_last else ''} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
