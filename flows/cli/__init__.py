"""The command line `alter`: one file for each group of commands."""
