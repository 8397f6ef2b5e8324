"""The command ``nbfagg``: its arguments, its exit codes, and nothing else.

Each sub-command is a module of its own, imported only when it is called for, so that ``nbfagg --version`` and
an error of the command line cost no import of NumPy or Numba.

====  ==================================================================
exit  when
====  ==================================================================
0     done, and what was shown is as promised
1     a difference was found (`check`, `demo`), or a file or device failed
2     the command line is wrong, or a file that it names; stderr says how in
      one line, or has the help where no command is named
130   interrupted (Ctrl-C)
141   the reader of the output has gone (a broken pipe)
143   ended by SIGTERM (`run`)
====  ==================================================================
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Print the version and stop; it is looked up only here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from nbfagg import info

        print(parser.prog, info.installed("nbfagg") or info.NOT_INSTALLED)
        parser.exit()


def _seed(text: str) -> int:
    """Convert the value of ``--seed``: what NumPy's generators take."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _minutes(text: str) -> float:
    """Convert the value of ``--soak``."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes from 0")
    return minutes


def _count(text: str) -> int:
    """Convert the value of an option that counts something."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _announce_compilation(time: str) -> None:
    """Tell a person at a terminal what the first call waits for, if it does, and for about how long."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    from numba.core import event

    class Announcer(event.Listener):  # type: ignore[misc]  # Numba has no types
        told = False

        def on_start(self, event: Any) -> None:
            if not self.told:
                print(f"nbfagg: compiling, once on this machine: {time} ...", file=sys.stderr, flush=True)
            self.told = True

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Announcer())  # type: ignore[no-untyped-call]


def _demo(arguments: argparse.Namespace) -> int:
    from nbfagg import demo

    _announce_compilation("half a minute or more")  # one kernel
    return demo.run(arguments.sentence, plain=arguments.plain)


def _info(arguments: argparse.Namespace) -> int:
    from nbfagg import info

    info.show_config()
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if arguments.target == "cuda":
        from nbfagg.cuda import check as cuda_check

        return cuda_check.run(arguments.seed)
    _announce_compilation("some minutes")  # every kernel, for float32 and float64
    if arguments.soak is not None:
        from nbfagg import soak

        return soak.run(arguments.soak, arguments.seed)
    from nbfagg import check

    return check.run(arguments.seed)


def _run(arguments: argparse.Namespace) -> int:
    from nbfagg import run

    _announce_compilation("some 20 seconds")  # one kernel
    return run.run(arguments)


def _axes(text: str) -> int | tuple[int, ...]:
    """Convert the value of ``--batch-axis``: ``1``, ``0,2``, ``none``."""
    try:
        axes = () if text == "none" else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of axes, as 1 or 0,2 or none") from None
    return axes[0] if len(axes) == 1 else axes


def _size(text: str) -> int:
    """Convert the value of ``--memory``: bytes, or ``500M``, ``4G``, ``1.5GiB``."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number = text.upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        size = float(number.removesuffix(unit)) * units[unit]
        if not 0 < size < 2**63:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, as 500M or 4G") from None
    return int(size)


def _bench(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.target == "cuda":
        # Its shapes, dtypes and peers are its own.
        if arguments.list or arguments.shape or arguments.peer or arguments.plot:
            parser.error("--target cuda takes --json alone")
        from nbfagg.cuda import bench

        return bench.main(None if arguments.json is None else str(arguments.json))
    from nbfagg.bench import cases, command
    from nbfagg.bench.memory import keep_freed_memory

    if arguments.list:
        return command.show_names()
    wrong = command.unknown(arguments.shape or (), arguments.peer or ())
    if wrong:
        parser.error(wrong)
    _announce_compilation("half a minute")
    keep_freed_memory()
    return command.run(
        arguments.shape or cases.COMPARED,
        arguments.peer,
        dtype=arguments.dtype,
        rounds=arguments.rounds,
        plot=arguments.plot,
        record=arguments.json,
    )


def _no_command(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nbfagg", description="Stable attention aggregation of arrays.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    parser.set_defaults(run=lambda _: _no_command(parser))
    commands = parser.add_subparsers(metavar="command")

    def command(name: str, run: Any, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "show which words of three sentences a transformer attends to")
    demo.add_argument("--sentence", type=int, choices=(1, 2, 3), help="show this one only")
    demo.add_argument("--plain", action="store_true", help="numbers and bars, no colour, on a terminal too")

    run = command("run", _run, "aggregate a file that may be larger than memory")
    run.add_argument("input", metavar="IN", help="a .npy or .safetensors file, or a Zarr array")
    run.add_argument("out", metavar="OUT", help="the weights: a name that ends in .npy or .zarr")
    for name, default in (("batch", 0), ("keep", 1)):
        what = f"as {default}, or 0,2, or none (default: {default})"
        run.add_argument(f"--{name}-axis", type=_axes, default=default, metavar="AXES", help=what)
    run.add_argument("--lengths", metavar="FILE", help=".npy of integers: the tokens of each batch row")
    run.add_argument("--where", metavar="FILE", help=".npy of booleans that broadcast to IN, True to include")
    run.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="multiplies the logits (default: 1)"
    )
    run.add_argument("--log", action="store_true", help="write the natural logarithm")
    run.add_argument(
        "--key", metavar="NAME", help="which tensor of a .safetensors file or array of a Zarr group"
    )
    run.add_argument(
        "--memory", type=_size, metavar="SIZE", help="16M at least, as 4G (default: a quarter of RAM)"
    )
    run.add_argument("--workers", type=int, metavar="N", help="threads (default: one a CPU)")
    run.add_argument(
        "--scheduler", metavar="ADDRESS", help="run on the Dask cluster there, as tcp://host:8786"
    )
    run.add_argument("--resume", action="store_true", help="go on where an earlier run of the same was ended")

    command("info", _info, "show versions, threads, SIMD width, cache directory and GPUs")

    check = command("check", _check, "compare fagg with an oracle of higher precision on this machine")
    check.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the random logits (default: 0)")
    soak = "make random calls of all functions for so long; 0 repeats the round of one seed"
    check.add_argument("--soak", type=_minutes, metavar="MINUTES", help=soak)
    check.add_argument(
        "--target", choices=("cpu", "cuda"), default="cpu", help="what runs fagg (default: cpu)"
    )

    bench = command("bench", None, "time fagg against the memory limit and the peers installed here")
    bench.set_defaults(run=functools.partial(_bench, bench))
    bench.add_argument("--list", action="store_true", help="show the names of shapes and peers, and stop")
    bench.add_argument("--shape", action="append", metavar="NAME", help="at this shape; may be repeated")
    bench.add_argument("--peer", action="append", metavar="NAME", help="against this peer; may be repeated")
    bench.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of the logits")
    bench.add_argument("--rounds", type=_count, default=9, metavar="N", help="turns of each (default: 9)")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="write a picture: .png, .svg or .pdf")
    bench.add_argument(
        "--target", choices=("cpu", "cuda"), default="cpu", help="what runs fagg (default: cpu)"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the record")
    return parser


def _flush() -> None:
    # There is no stdout at all where the caller closed it.
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Let what stdout still buffers go nowhere: the interpreter flushes it once more, and complains."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (AttributeError, OSError):
        pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``nbfagg``.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments behind the command's name; those of the process by default.

    Returns
    -------
    int
        The exit code; see the module's table.
    """
    try:
        try:
            arguments = _parser().parse_args(argv)
            status: int = arguments.run(arguments)
        except SystemExit as stop:  # of a parser: help, a version, an error
            status = stop.code if isinstance(stop.code, int) else 0
        _flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141
    except OSError as error:
        _drop_output()
        print(f"nbfagg: error: {error}", file=sys.stderr)
        return 1
    return status
