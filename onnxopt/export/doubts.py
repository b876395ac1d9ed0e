"""Why a model may be wrong although it computes what PyTorch computes."""

from __future__ import annotations

import re

from onnxopt.export.choosing import Candidate
from onnxopt.export.parts import Part
from onnxopt.export.sources import Loaded
from onnxopt.export.weights import weights_in

# In what torch.export says of a module that branches on the values of its inputs.
_DATA_DEPENDENT = re.compile("data.?dependent", re.IGNORECASE)


def doubts(part: Part, loaded: Loaded, best: Candidate, candidates: list[Candidate]) -> list[str]:
    """Notes on what parity does not show.

    Args:
        part: What was exported.
        loaded: Where it is from.
        best: What is kept.
        candidates: What every exporter did.
    """
    notes = []
    assert best.model is not None
    if random := loaded.untrained and weights_in(best.model, loaded.model, loaded.untrained):
        names = ", ".join(random[:3]) + f" and {len(random) - 3} more" * (len(random) > 3)
        notes.append(
            f"{part.name}: the source has no weights for {names}: they are random, and the model "
            f"is of no use for {loaded.task} until they are trained"
        )
    traced = best.exporter == "torchscript"
    if traced and any(_DATA_DEPENDENT.search(one.rejected) for one in candidates):
        notes.append(
            f"{part.name}: the module decides by values what to compute; the trace has what it "
            "decided for the inputs that it was checked on, and for no others"
        )
    return notes
