"""Import and first call, in a new process a sample."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from .common import public


class Start:
    """From a disk cache that setup has filled."""

    number = 1
    rounds = 1
    repeat = (3, 7, 10.0)
    timeout = 600

    FIRST_CALL = "import numpy, nbfagg; nbfagg.fagg(numpy.zeros((3, 10, 2, 10), 'float32'))"
    # What asv reads from the process is the time.
    CONFIG = textwrap.dedent("""\
        import contextlib, io, nbfagg
        with contextlib.redirect_stdout(io.StringIO()):
            nbfagg.show_config()
        """)
    WARMUP = "import nbfagg; nbfagg.warmup(dtypes=('float32',))"

    def setup(self):
        public("warmup")
        public("fagg")
        for code in (self.FIRST_CALL, self.WARMUP):
            subprocess.run([sys.executable, "-c", code], check=True)

    def timeraw_import_numpy(self):
        return "import numpy"

    def timeraw_import(self):
        return "import nbfagg"

    def timeraw_import_numba(self):
        return "import numba"

    def timeraw_first_call(self):
        return self.FIRST_CALL

    def timeraw_warmup(self):
        return self.WARMUP

    def timeraw_show_config(self):
        return self.CONFIG


class Cold:
    """The first call of all: nothing compiled yet."""

    number = 1
    rounds = 1
    repeat = 1
    warmup_time = 0
    timeout = 600

    # NUMBA_CACHE_DIR has to be there before Numba is imported.
    EMPTY_CACHE = textwrap.dedent("""\
        import atexit, os, tempfile
        folder = tempfile.TemporaryDirectory()
        atexit.register(folder.cleanup)
        os.environ["NUMBA_CACHE_DIR"] = folder.name
        """)

    def setup(self):
        public("fagg")

    def timeraw_first_call_compiling(self):
        return Start.FIRST_CALL, self.EMPTY_CACHE
