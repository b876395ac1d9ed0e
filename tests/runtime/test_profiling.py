from onnxopt.runtime.measuring.profiling import profile_model, read_profile
from onnxopt.runtime.session import open_session


def node(name: str, op: str, start: int, microseconds: int) -> dict:
    return {
        "cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": microseconds,
        "args": {"op_name": op, "provider": "CPUExecutionProvider"},
    }  # fmt: skip


def run(start: int, end: int) -> dict:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": end - start}


def test_times_are_means_over_runs_without_the_first():
    events = [
        node("a", "MatMul", 0, 900), run(0, 1000),
        node("a", "MatMul", 1000, 100), node("b", "MatMul", 1200, 300), run(1000, 2000),
        node("a", "MatMul", 2000, 200), node("c", "Relu", 2300, 40), run(2000, 3000),
        {"cat": "Node", "name": "a_fence_before", "ts": 2000, "dur": 5},
    ]  # fmt: skip
    profile = read_profile(events)
    assert profile.runs == 2
    assert [(c.name, round(c.seconds * 1e6)) for c in profile.nodes] == [
        ("a", 150), ("b", 150), ("c", 20),
    ]  # fmt: skip
    assert [(c.op_type, c.count, c.provider) for c in profile.op_types] == [
        ("MatMul", 2, "CPU"), ("Relu", 1, "CPU"),
    ]  # fmt: skip


def test_bodies_of_loops_are_not_counted_twice():
    events = [node("l", "Loop", 10, 500), node("a", "Add", 20, 400), run(0, 1000)]
    assert round(read_profile(events).seconds * 1e6) == 400


def test_a_real_profile_names_the_operators(tmp_path):
    import numpy as np

    path = "models/digits_cnn.onnx"
    feeds = {"image": np.ones((1, 1, 8, 8), np.float32)}
    profile = profile_model(lambda p: open_session(path, profile_prefix=p), feeds, seconds=0.01)
    assert any(cost.op_type == "Conv" for cost in profile.op_types)
    assert profile.to_dict()["runs"] == profile.runs >= 2
