"""vmferryd: one host's half of vmferry."""
