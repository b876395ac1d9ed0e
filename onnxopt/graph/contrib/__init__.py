"""Types and shapes of ONNX Runtime's own operators, for which onnx has no schemas.

Each entry of the tables names how the outputs follow from the inputs. An operator that is in none
of them keeps what the file declares, as do outputs that a rule says nothing about.
"""

from __future__ import annotations

from onnxopt.graph.contrib.attention import ATTENTION_RULES
from onnxopt.graph.contrib.elementwise import ELEMENTWISE_RULES
from onnxopt.graph.contrib.images import IMAGE_RULES
from onnxopt.graph.contrib.indexing import INDEXING_RULES
from onnxopt.graph.contrib.normalization import NORMALIZATION_RULES
from onnxopt.graph.contrib.products import PRODUCT_RULES
from onnxopt.graph.contrib.rules import FactRule
from onnxopt.graph.contrib.tokens import TOKEN_RULES
from onnxopt.graph.facts import UNKNOWN, Fact
from onnxopt.graph.shape_rules import RuleInputs

# ONNX Runtime adds these to the default domain, the second one for opsets below 17.
_IN_DEFAULT_DOMAIN = ("SimplifiedLayerNormalization", "LayerNormalization")

_RULES: dict[str, FactRule] = {
    **ATTENTION_RULES,
    **ELEMENTWISE_RULES,
    **IMAGE_RULES,
    **INDEXING_RULES,
    **NORMALIZATION_RULES,
    **PRODUCT_RULES,
    **TOKEN_RULES,
}


def is_contrib(domain: str, op_type: str) -> bool:
    """True for an operator that has a rule here."""
    if domain:
        return domain == "com.microsoft" and op_type in _RULES
    return op_type in _IN_DEFAULT_DOMAIN


def contrib_facts(inputs: RuleInputs) -> list[Fact] | None:
    """Facts of the outputs of a node, or None if its operator is not known here.

    Args:
        inputs: The node, the facts of its inputs and their known elements.
    """
    node = inputs.node
    if not is_contrib(node.domain, node.op_type):
        return None
    facts = _RULES[node.op_type](inputs)
    return (facts + [UNKNOWN] * len(node.outputs))[: len(node.outputs)]
