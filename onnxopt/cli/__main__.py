"""`python -m onnxopt.cli`: the same as the `onnxopt` command."""

from onnxopt.cli import main

main()
