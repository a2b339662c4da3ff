"""Held-out losses beside training."""
