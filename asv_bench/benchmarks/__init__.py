"""What asv runs, and what the README's figures are measured with.

asv imports this package as `benchmarks`, the figures import it as `asv_bench.benchmarks`.
"""

import os

# Idle OpenMP threads spin. With one core busy elsewhere that made a parallel kernel 14 times slower, with
# hardly any spread to tell it by; sleeping threads made it twice as slow, which is the truth. asv's series,
# taken over months on machines that nobody watches, need that; the figures show what a user gets, so they
# leave the default alone.
if __name__ == "benchmarks":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
