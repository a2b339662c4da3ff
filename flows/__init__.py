"""Prefect flows over the stages, and the `mmfs` command."""
