"""Answers of a trained model: prompts read together, labels under constraint, one text or a file of rows."""
