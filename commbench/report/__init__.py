"""Looks at rows and never computes: the table, CSV and JSON, the picture, the progress of a run."""
