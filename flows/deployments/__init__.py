"""Domains that run by themselves: what is deployed on a Prefect server, and what becomes of it."""
