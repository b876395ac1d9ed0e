"""Peak memory of exporting a decoder of over 2 GB, beside that of loading it in PyTorch.

    python benchmarks/export_memory.py [--exporters dynamo torchscript] [--layers 5]

A Llama with random float32 weights is saved once to a temporary folder; then one process loads it
in PyTorch and runs it, and one for each exporter exports it. Peak memory is that of the whole
process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measuring import run_process

_MAKE = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(hidden_size=2560, intermediate_size=6912, num_hidden_layers=int(sys.argv[2]),
                     num_attention_heads=20, num_key_value_heads=4, vocab_size=64000)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
"""
_LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    model(torch.ones((2, 8), dtype=torch.int64))
"""
_EXPORT = """
import sys, onnxopt
result = onnxopt.export(sys.argv[1], sys.argv[2], exporter=sys.argv[3])
print("kept", result.files[0].exporter, result.files[0].largest_error)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exporters", nargs="+", default=["dynamo", "torchscript"])
    parser.add_argument("--layers", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        source = Path(work, "source")
        made = run_process([sys.executable, "-c", _MAKE, str(source), str(arguments.layers)])
        if made.code:
            sys.exit(made.output)
        size = sum(path.stat().st_size for path in source.glob("*.safetensors")) / 1e6
        loaded = run_process([sys.executable, "-c", _LOAD, str(source)])
        print(f"weights {size:.0f} MB; loaded and run in PyTorch: peak {loaded.peak_mb:.0f} MB")
        for exporter in arguments.exporters:
            target = Path(work, exporter)
            run = run_process([sys.executable, "-c", _EXPORT, str(source), str(target), exporter])
            print(
                f"{exporter}: exit {run.code}, {run.seconds:.0f} s, peak {run.peak_mb:.0f} MB, "
                f"{run.peak_mb - loaded.peak_mb:.0f} MB above PyTorch"
            )
            if run.code:
                print(run.output[-1500:])
            for path in target.glob("*"):
                path.unlink()


if __name__ == "__main__":
    main()
