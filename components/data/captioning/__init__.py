"""Captions for pictures that have none: by a local model's folder or an endpoint, a file per input shard."""
