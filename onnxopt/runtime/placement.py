"""How many nodes of a model run on another device than asked for, and what is copied between both.

Every node that CUDA has no kernel for runs on the CPU, and ONNX Runtime puts copies around it that
wait for all work before them. Both are read from its profile of one model.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import onnx_ir as ir

from onnxopt.runtime.measuring.profiling import Profile, profile_model
from onnxopt.runtime.providers import check_provider
from onnxopt.runtime.session import Feeds, Session, open_session

_COPIES = {"MemcpyFromHost": "to the device", "MemcpyToHost": "from the device"}
_TYPES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the nodes of a model run.

    Attributes:
        nodes: Execution provider to its number of nodes, copies aside.
        on_cpu: Type of operator to its number of nodes on the CPU.
        copies: "to the device" and "from the device" to the number of copies.
    """

    nodes: Counter[str]
    on_cpu: Counter[str]
    copies: Counter[str]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {name: dict(counts) for name, counts in vars(self).items()}

    def __str__(self) -> str:
        """As "2 of 40 nodes run on the CPU (NonZero 1, Shape 1); 3 copies between devices"."""
        total = self.nodes.total()
        listed = ", ".join(f"{kind} {n}" for kind, n in self.on_cpu.most_common(_TYPES_SHOWN))
        which = f" ({listed})" if listed else ""
        return (
            f"{self.on_cpu.total()} of {total} nodes run on the CPU{which}; "
            f"{self.copies.total()} copies between devices"
        )


def read_placement(profile: Profile) -> Placement:
    """Counts the nodes of a profile by where they ran."""
    placement = Placement(Counter(), Counter(), Counter())
    for node in profile.nodes:
        if node.op_type in _COPIES:
            placement.copies[_COPIES[node.op_type]] += 1
            continue
        placement.nodes[node.provider] += 1
        if node.provider == "CPU":
            placement.on_cpu[node.op_type] += 1
    return placement


def find_placement(model: ir.Model, feeds: Feeds, providers: tuple[str, ...]) -> Placement:
    """Runs a model a few times and counts where its nodes run.

    Raises:
        InvalidInputError: The first provider does not start here.
        CannotRunError: The model does not run there.
    """

    def open_(prefix: str) -> Session:
        session = open_session(model, providers=providers, profile_prefix=prefix)
        check_provider(session, providers)
        return session

    return read_placement(profile_model(open_, feeds, seconds=0.0))
