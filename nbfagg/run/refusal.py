"""What ends a run before it began: told in one line, with exit code 2."""

from __future__ import annotations

import importlib
from typing import Any


class Refused(Exception):
    """The command line, or what it names, cannot be taken; nothing was written."""


def importing(name: str, extra: str) -> Any:
    """Import a library that is optional."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Refused(f"{name} is not installed; want pip install 'nbfagg[{extra}]'") from None
