"""What a run of passes may not do: passes, rules and nodes to leave alone.

The guard undoes a rewrite by running its group of passes again without it, which leaves the group
in a state that its passes themselves would have reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class Place:
    """A pass, one rule of it, or one node that either would rewrite.

    Attributes:
        pass_: The pass as it prints itself.
        rule: A rule of the pass; "" for all of it, and for passes that have no rules.
        node: Name of the node at the root of the rewrite; "" for all nodes.
    """

    pass_: str
    rule: str = ""
    node: str = ""

    def __str__(self) -> str:
        rule = f" rule {self.rule}" if self.rule and self.rule != self.pass_ else ""
        node = f" at {self.node}" if self.node else ""
        return f"pass {self.pass_}{rule}{node}"


class Gate:
    """Keeps passes from places, and notes where they rewrote.

    Args:
        blocked: What to leave alone.

    Attributes:
        taken: Where something was rewritten, in order; a pass without rules is one place.
        attempting: Pass, rule and node that were tried last, so that a rule that raises has a name.
    """

    def __init__(self, blocked: Collection[Place] = ()) -> None:
        self.taken: list[Place] = []
        self.attempting: tuple[str, str, str] | None = None
        self._blocked = frozenset(blocked)

    def permits(self, pass_: str, rule: str = "", node: str = "") -> bool:
        """False if the place, or one that it is part of, is to be left alone."""
        blocked = self._blocked
        return not blocked or not (
            Place(pass_) in blocked
            or (rule != "" and Place(pass_, rule) in blocked)
            or (node != "" and Place(pass_, rule, node) in blocked)
        )

    def fenced(self, pass_: str) -> frozenset[str]:
        """Names of the nodes that a pass without rules must not see."""
        return frozenset(
            place.node
            for place in self._blocked
            if place.pass_ == pass_ and place.node and not place.rule
        )


def node_label(node: ir.Node) -> str:
    """What places call a node: its name, or that of its first output."""
    return node.name or next((value.name for value in node.outputs if value.name), node.op_type)
