"""The README's figures: measured by a command, recorded as JSON, written into its tables from the record.

A module a figure, each with `measure(rounds)` and its tables; `record` is the machine and the file, `readme`
the markers.
"""
