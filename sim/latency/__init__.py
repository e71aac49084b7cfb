"""Latency models: how long one engine step takes, in exact integer picoseconds."""
