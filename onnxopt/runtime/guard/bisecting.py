"""Which rewrite of a group of passes is to blame: found by leaving parts of the group out.

Each trial runs the group again without a part of it, so it judges a state that would be kept. A
bisection over passes in the order of their first rewrite finds the pass, one over its rules the
rule, one over the places that the rule rewrote the node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence, Set

from onnxopt.core.gate import Place
from onnxopt.core.guarding import Undone
from onnxopt.core.pipeline import Observer
from onnxopt.runtime.guard.attempts import Attempt
from onnxopt.runtime.guard.changes import ChangedNodes

# More wrong nodes than these, and the whole rule is undone.
_MOST_NODES = 3

Blocked = frozenset[Place]
Run = Callable[[Blocked, Sequence[Observer]], Attempt]
Complaint = Callable[[Attempt], str]
Suspects = Callable[[Attempt], Sequence[Place]]


class HopelessError(Exception):
    """The group is to blame for nothing: without all of its passes the complaint stays."""


@dataclasses.dataclass(frozen=True)
class Culprit:
    """What to leave out from now on, and how the report names it."""

    places: Blocked
    undone: Undone


class Bisection:
    """Looks for culprits in one group.

    Args:
        run: Runs the group without what is blocked.
        complaint: What is wrong with the outcome; "" if nothing is.
        by_node: Look for single nodes; else a rule is left out at all of its nodes.
        suspects: Rewrites to try first.

    Attributes:
        best: The last attempt without a complaint.
        found: What was found so far.
        places: What is left out because of it.
    """

    def __init__(
        self, run: Run, complaint: Complaint, *, by_node: bool, suspects: Suspects | None = None
    ) -> None:
        self.best: Attempt | None = None
        self.found: list[Undone] = []
        self.places: Blocked = frozenset()
        self._run = run
        self._complaint = complaint
        self._by_node = by_node
        self._suspects = suspects
        self._known: dict[Blocked, str] = {}

    def repair(self, first: Attempt, reason: str) -> Attempt:
        """Leaves culprits out, one after the other, until nothing is to be complained about.

        Args:
            first: The group as it ran.
            reason: What is wrong with it.

        Raises:
            HopelessError: Even without all passes there is a complaint.
            BudgetSpentError: As `run` raises it.
        """
        self._known[first.blocked] = reason
        current = first
        while reason := self._judge(current):
            culprit = self._suspected(current, reason) or self._find(current, reason)
            self.found.append(culprit.undone)
            self.places |= culprit.places
            current = self._rerun(current.blocked | culprit.places)
        return current

    def _rerun(self, blocked: Blocked) -> Attempt:
        if self.best is not None and self.best.blocked == blocked:
            return self.best
        return self._run(blocked, ())

    def _suspected(self, bad: Attempt, reason: str) -> Culprit | None:
        """A culprit among the suspects, if all is well without them and they are few."""
        places = list(self._suspects(bad)) if self._suspects is not None else []
        if not places or not self._good(bad.blocked | set(places)):
            return None
        chosen = places if len(places) == 1 else self._nodes(bad.blocked, places)
        rules = {(place.pass_, place.rule) for place in chosen}
        if len(rules) != 1:
            return None
        ((name, rule),) = rules
        nodes = tuple(place.node for place in chosen)
        undone = Undone(passes=(name,), rule=rule, nodes=nodes, reason=reason)
        return Culprit(frozenset(chosen), undone)

    def _find(self, bad: Attempt, reason: str) -> Culprit:
        blocked = bad.blocked
        passes = list(dict.fromkeys(place.pass_ for place in bad.taken))
        position = self._breaking(blocked, [Place(name) for name in passes])
        if position is None:
            raise HopelessError(reason)
        name = passes[position]
        context = blocked
        rest = passes[position + 1 :]
        if rest and not self._good(blocked | {Place(name)}):
            # There is another culprit after it; look at this one with the others out of the way.
            context = blocked | {Place(one) for one in rest}
            bad = self._run(context, ())
            reason = self._judge(bad) or reason
        whole = Culprit(frozenset({Place(name)}), Undone(passes=(name,), reason=reason))
        rules = list(dict.fromkeys(p.rule for p in bad.taken if p.pass_ == name))
        if rules == [""]:
            return self._node_of_pass(whole, context) if self._by_node else whole
        return self._rule(name, rules, bad, context, reason) or whole

    def _rule(
        self, name: str, rules: Sequence[str], bad: Attempt, context: Blocked, reason: str
    ) -> Culprit | None:
        position = self._breaking(context, [Place(name, rule) for rule in rules])
        if position is None:
            return None
        rule = rules[position]
        rest = rules[position + 1 :]
        if rest and not self._good(context | {Place(name, rule)}):
            context |= {Place(name, one) for one in rest}
            bad = self._run(context, ())
            reason = self._judge(bad) or reason
        places = list(dict.fromkeys(p for p in bad.taken if (p.pass_, p.rule) == (name, rule)))
        chosen = self._nodes(context, places) if self._by_node else None
        nodes = tuple(place.node for place in chosen or places)
        undone = Undone(passes=(name,), rule=rule, nodes=nodes, reason=reason)
        return Culprit(frozenset(chosen or {Place(name, rule)}), undone)

    def _node_of_pass(self, whole: Culprit, context: Blocked) -> Culprit:
        """A pass without rules is kept from nodes by hiding them from it."""
        (name,) = whole.undone.passes
        watch = ChangedNodes(name)
        self._run(context, [watch])
        chosen = self._nodes(context, [Place(name, "", node) for node in watch.names])
        if not chosen:
            return whole
        nodes = tuple(place.node for place in chosen)
        return Culprit(frozenset(chosen), dataclasses.replace(whole.undone, nodes=nodes))

    def _nodes(self, context: Blocked, places: Sequence[Place]) -> list[Place]:
        """The few places that suffice; empty if there are no such."""
        chosen: list[Place] = []
        while len(chosen) < min(_MOST_NODES, len(places)):
            rest = [place for place in places if place not in chosen]
            position = self._breaking(context | set(chosen), rest)
            if position is None:
                return []
            chosen.append(rest[position])
            if self._good(context | set(chosen)):
                return chosen
        return []

    def _breaking(self, context: Blocked, places: Sequence[Place]) -> int | None:
        """The place that makes the difference: good without it and all after it, bad with it.

        What comes first is kept, since it makes the graph small, and with it every further trial.
        None if not even leaving out all of them helps.
        """
        low, high = 0, len(places)  # good with only the first `low` of them, bad with `high`
        while high - low > 1:
            middle = (low + high) // 2
            if self._good(context | set(places[middle:])):
                low = middle
            else:
                high = middle
        if not places or (low == 0 and not self._good(context | set(places))):
            return None
        return low

    def _good(self, blocked: Set[Place]) -> bool:
        key = frozenset(blocked)
        known = self._known.get(key)
        return not (self._judge(self._run(key, ())) if known is None else known)

    def _judge(self, one: Attempt) -> str:
        known = self._known.get(one.blocked)
        if known is None:
            known = self._known[one.blocked] = self._complaint(one)
            if not known:
                self.best = one
        return known
