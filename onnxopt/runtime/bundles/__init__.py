"""Bundles: a model with the options it was measured with, and samples that prove it elsewhere."""
