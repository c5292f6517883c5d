"""Runs, tables and figures of the paper, on the command line."""
