"""Deformable sampling operators on tensors: a readable oracle and the paths that are fast."""

# Hugging Face ships a distribution with this import name; its probes read this attribute.
__version__ = "0.1.0"
