"""Chooses the adapters of a profile and puts the stages together; no other folder knows which adapter it talks to."""
