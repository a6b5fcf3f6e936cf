"""Replay of conformance vectors through the functions that the chain runs."""
