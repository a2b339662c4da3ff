"""Registered models: what is registered, who may become champion, and the ledger that decides."""
