"""Measure a figure and record it, or write the READMEs' tables from the records (``readme [--check]``)."""

from __future__ import annotations

import argparse
import importlib
import sys

from . import readme, record

FIGURES = {
    "speed": "share of the limit that memory sets, shape by shape",
    "peers": "the fastest and every other peer's time over fagg's",
    "small": "a call with next to nothing to compute",
    "startup": "import and first call in a new process",
    "accuracy": "histogram of errors in ulp, against the oracle",
    "exponential": "the vector exponential at every float32",
    "options": "masks, lengths, half precision and packed rows",
    "gradient": "the gradient, against a copy and against autograd, and its errors",
    "torch_training": "forward and backward on tensors, against PyTorch's own forms",
    "dask": "Dask's threads against a plain call, and the time that a graph takes",
    "run": "nbfagg run against cat (up to 1.25 times the memory in the folder for temporary files)",
    "memory": "extra memory of a call beyond its result",
    "neighbour": "a call while another program has one of two cores",
    "processors": "one thread with the instructions of older processors, in cache",
    "repeat": "the ratios that asv tracks, measured twice",
    "hazards": "what takes a process down or gives a wrong number, tried with each library",
    "soak": "an hour of random calls, each compared with the oracle (--rounds: minutes)",
    "mutations": "breakages of one line, each of which a test notices",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m asv_bench.figures", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in {**FIGURES, "all": "all of them, then readme"}.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--rounds", type=int, help="turns of each side (default: the figure's own)")
    command = commands.add_parser("readme", help="write the READMEs' tables from the records")
    command.add_argument("--check", action="store_true", help="write nothing, exit 1 if the file differs")
    given = parser.parse_args(arguments)

    if given.command == "readme":
        return readme.main(check=given.check)
    for name in FIGURES if given.command == "all" else [given.command]:
        figure = importlib.import_module(f"{__package__}.{name}")
        record.write(name, figure.measure(given.rounds))
    return readme.main(check=False) if given.command == "all" else 0


if __name__ == "__main__":
    sys.exit(main())
