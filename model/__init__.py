"""MM-Interleaved on one device: encoder with pyramid, language model with MMFS, diffusion image decoder."""
