"""Clients of AWS services, shared by the adapters."""
