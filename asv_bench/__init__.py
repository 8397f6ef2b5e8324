"""Benchmarks of nbfagg: asv's suite in `benchmarks`, the README's figures in `figures`."""
