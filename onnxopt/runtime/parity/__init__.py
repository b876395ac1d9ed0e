"""Whether two models compute the same: comparing, judging, proving."""
