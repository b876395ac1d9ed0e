"""Counting nodes by device, on a profile in the form in which ONNX Runtime writes it."""

from __future__ import annotations

from typing import Any

from helpers.planted import layers

from onnxopt.runtime.inputs.plan import synthesize
from onnxopt.runtime.measuring.profiling import read_profile
from onnxopt.runtime.placement import find_placement, read_placement
from onnxopt.runtime.session import CPU


def event(name: str, op: str, provider: str, start: int) -> dict[str, Any]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": 5,
        "args": {"op_name": op, "provider": f"{provider}ExecutionProvider", "node_index": "1"},
    }


def run(start: int) -> list[dict[str, Any]]:
    return [
        event("Memcpy_token_1", "MemcpyFromHost", "CUDA", start + 10),
        event("conv", "Conv", "CUDA", start + 20),
        event("relu", "Relu", "CUDA", start + 30),
        event("Memcpy_token_2", "MemcpyToHost", "CUDA", start + 40),
        event("nonzero", "NonZero", "CPU", start + 50),
        event("shape", "Shape", "CPU", start + 60),
        event("Memcpy_token_3", "MemcpyFromHost", "CUDA", start + 70),
        {"cat": "Session", "name": "model_run", "ts": start, "dur": 100},
    ]


def test_nodes_and_copies_are_counted_once_when_the_model_ran_twice() -> None:
    found = read_placement(read_profile([*run(0), *run(1000)]))
    assert found.to_dict() == {
        "nodes": {"CUDA": 2, "CPU": 2},
        "on_cpu": {"NonZero": 1, "Shape": 1},
        "copies": {"to the device": 2, "from the device": 1},
    }
    assert str(found) == (
        "2 of 4 nodes run on the CPU (NonZero 1, Shape 1); 3 copies between devices"
    )


def test_all_nodes_are_on_the_cpu_when_run_there() -> None:
    model = layers(2)
    found = find_placement(model, synthesize(model)[0].feeds, CPU)
    assert found.nodes.total() == found.on_cpu.total() > 0
    assert found.copies.total() == 0
