"""How a benchmark runs its models."""

from __future__ import annotations

import dataclasses

from onnxopt.runtime.session import Optimization

SESSIONS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """How to run the models.

    Attributes:
        provider: "cpu" or "cuda".
        threads: Threads inside an operator; ONNX Runtime's choice by default.
        optimization: How far ONNX Runtime rewrites the graphs.
        disabled_optimizers: Its optimizers to leave out.
        saved_options: Where a model names the two in its metadata, it is loaded with those.
        seconds: How long the interleaved rounds go on.
        sessions: Sessions of each model; fewer are opened for large and slow models.
        profile: Record the time of every node as well.
        load: Measure load time and memory in new processes as well.
    """

    provider: str = "cpu"
    threads: int | None = None
    optimization: Optimization = "all"
    disabled_optimizers: tuple[str, ...] = ()
    saved_options: bool = False
    seconds: float = 5.0
    sessions: int = SESSIONS
    profile: bool = False
    load: bool = True
