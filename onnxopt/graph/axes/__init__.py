"""Axis dependencies: which positions of which axes of which tensors can only be removed together.

`find_groups(model)` in `groups.py` is the way in. Every value has an axis variable per axis; rules,
one small file per family of operators, tie variables together, whole or position by position. What
no rule speaks of is pinned, with the reason.
"""
