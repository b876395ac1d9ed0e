"""A digits classifier in float, quantized after training, and trained quantized, side by side.

    python benchmarks/digits_qat.py [--epochs 40]

The network of models/digits_cnn.py is trained on scikit-learn's digits. PTQ is torchao's
`prepare_pt2e` with a calibration on training images; QAT is `prepare_qat_pt2e`, trained for a quarter
as many epochs from the float weights. All of them go through `onnxopt.export`. Weights have few
bits, given with --bits, since with 8 there is little for training to repair. Per row: accuracy of the
converted PyTorch module and of the ONNX model on the held-out images, the largest and RMS error
between both, layers on integers, and latency beside the float model.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "models"), str(ROOT / "benchmarks")]

import digits_cnn  # noqa: E402
import torch  # noqa: E402
from digits_data import digits  # noqa: E402
