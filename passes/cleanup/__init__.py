"""Rewrites that only tidy: the result is a smaller graph of the same operators."""
