"""Scoring on held-out documents: plan, generate, score. Comparing two models is the gate's work."""
