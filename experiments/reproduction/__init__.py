"""The reproduction of the paper's tables, figures and claims.

`paper` holds the published numbers, `studies` defines the runs that the tables need, `jobs` executes
them and `records` stores their results. `tables`, `claims`, `figures` and `document` turn the records
into a report. `simulation` and `figure3` reproduce Figure 3.
"""
