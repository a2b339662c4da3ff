"""One metric family a file: pure functions from generated answers to numbers."""
