"""Comparing a domain's model with its baselines: arms, trials, intervals. Nothing that is served needs it."""
