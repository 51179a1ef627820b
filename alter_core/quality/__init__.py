"""Whether a domain's rows are fit to train on: checks, what they found, and the page that shows it."""
