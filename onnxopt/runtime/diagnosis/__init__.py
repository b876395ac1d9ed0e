"""Where two models start to differ, and why."""
