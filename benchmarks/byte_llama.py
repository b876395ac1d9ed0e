"""Trains a small Llama on bytes of Python's own documentation, and exports it to ONNX.

    python benchmarks/byte_llama.py [--minutes 15] [--threads 2]

The text is what every Python ships: the language reference behind `help()` and the docstrings of
the standard library, in the order of a seeded shuffle; the last twentieth is held out. The result
goes to `$ONNXOPT_CACHE/byte_llama` as byte_llama.onnx with held_out.txt and calibration.txt beside
it. It is small, but its weights are trained: what quantization costs shows in its perplexity.
"""

from __future__ import annotations

import argparse
import ast
import math
import random
import sys
import sysconfig
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import cache_dir
from exporting import TORCHSCRIPT
from llama168m import create, signature

LAYERS, WIDTH, HEADS, KEY_HEADS, HIDDEN, CONTEXT = 4, 256, 4, 2, 704, 256
BATCH = 8
CALIBRATION_BYTES = 64 << 10


def documents() -> list[str]:
    """Topics of the language reference and docstrings of the standard library."""
    found = list(topics.values())
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, kinds)]
        found += [text for text in texts if len(text) > 200]
    random.Random(0).shuffle(found)
    return found


def train(text: bytes, minutes: float) -> torch.nn.Module:
    """AdamW with a warm-up and a cosine decay over the time that is given."""
    torch.manual_seed(0)
    decoder = create(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        tie_word_embeddings=False,
    )
    model = decoder.model
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.1)
    model.config._attn_implementation = "sdpa"
    model.train()
    start, step = time.monotonic(), 0
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        rate = min(step / 50, 0.5 + 0.5 * math.cos(math.pi * share), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * max(rate, 0.01)
        places = torch.randint(0, len(data) - CONTEXT - 1, (BATCH,))
        rows = torch.stack([data[i : i + CONTEXT + 1] for i in places.tolist()])
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"{share:6.1%}  step {step}  loss {loss.item():.3f}", flush=True)
    model.config._attn_implementation = "sdpa_without_vmap"
    return decoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = documents()
    cut = len(texts) * 19 // 20
    known, held_out = ("\n\n".join(part) for part in (texts[:cut], texts[cut:]))
    print(f"{len(known):,} bytes to train on, {len(held_out):,} held out", flush=True)
    decoder = train(known.encode(), arguments.minutes)
    folder = cache_dir() / "byte_llama"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "held_out.txt").write_text(held_out, "utf-8")
    (folder / "calibration.txt").write_text(known[:CALIBRATION_BYTES], "utf-8")
    inputs, outputs = signature(LAYERS, KEY_HEADS, WIDTH // HEADS, 256)
    TORCHSCRIPT.export(decoder, inputs, outputs, folder / "byte_llama.onnx")
    print(f"{sum(p.numel() for p in decoder.parameters()):,} parameters in {folder}")


if __name__ == "__main__":
    main()
