"""Where a model's time goes, by type of operator and by node, from ONNX Runtime's profiler."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxopt.runtime.session import Feeds, Session

_SUFFIX = "_kernel_time"
_FEWEST_RUNS = 3
_MOST_RUNS = 100
# Their own time holds that of the nodes in their subgraphs, which are listed as well.
_WITH_SUBGRAPHS = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclasses.dataclass(frozen=True)
class Cost:
    """The time of a node, or of all nodes of a type.

    Attributes:
        name: Name of the node or type of operator, as ONNX Runtime runs it (after its own fusions).
        op_type: Type of operator.
        provider: Execution provider that runs it.
        seconds: Time per run of the model.
        count: Nodes of that type; 1 for a node.
    """

    name: str
    op_type: str
    provider: str
    seconds: float
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Profile:
    """Time by type of operator and by node, most first.

    Attributes:
        op_types: By type of operator and provider.
        nodes: By node.
        runs: Number of runs that it is the mean of.
    """

    op_types: tuple[Cost, ...]
    nodes: tuple[Cost, ...]
    runs: int

    @property
    def seconds(self) -> float:
        """Time in nodes per run, without counting subgraphs twice."""
        return sum(c.seconds for c in self.op_types if c.op_type not in _WITH_SUBGRAPHS)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def profile_model(
    open_: Callable[[str], Session], feeds: Feeds, *, seconds: float = 1.0
) -> Profile:
    """Runs a model with ONNX Runtime's profiler on.

    Args:
        open_: Opens the model with this prefix for the profile's file.
        feeds: Its inputs.
        seconds: How long to run it, warm-up included.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_(str(Path(folder) / "profile"))
        end = time.perf_counter() + seconds
        runs = 0
        while runs < _FEWEST_RUNS or (time.perf_counter() < end and runs < _MOST_RUNS):
            session.run(feeds)
            runs += 1
        path = Path(session.native.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
    return read_profile(events)


def read_profile(events: Iterable[Mapping[str, Any]]) -> Profile:
    """Adds up the events of a profile. The first run is left out: it allocates and warms up."""
    listed = list(events)
    ends = [e["ts"] + e["dur"] for e in listed if e.get("name") == "model_run"]
    start = min(ends) if len(ends) > 1 else float("-inf")
    runs = max(1, len(ends) - 1)
    totals: dict[tuple[str, str, str], float] = {}
    for event in listed:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_SUFFIX) or event["ts"] < start:
            continue
        details = event.get("args", {})
        key = (
            name.removesuffix(_SUFFIX),
            str(details.get("op_name", "")),
            str(details.get("provider", "")).removesuffix("ExecutionProvider"),
        )
        totals[key] = totals.get(key, 0.0) + event["dur"] / 1e6 / runs
    nodes = [Cost(*key, seconds) for key, seconds in totals.items()]
    groups: dict[tuple[str, str], list[Cost]] = {}
    for node in nodes:
        groups.setdefault((node.op_type, node.provider), []).append(node)
    op_types = [
        Cost(op_type, op_type, provider, sum(n.seconds for n in members), len(members))
        for (op_type, provider), members in groups.items()
    ]
    return Profile(_most_first(op_types), _most_first(nodes), runs)


def _most_first(costs: Iterable[Cost]) -> tuple[Cost, ...]:
    return tuple(sorted(costs, key=lambda cost: -cost.seconds))
