"""How fast models are, what they cost to load, and where the time goes."""
