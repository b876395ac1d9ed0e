"""Passes under guard: each group is proven, and undone where it is wrong or slower."""
