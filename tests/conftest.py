"""How many examples property tests try: NBFAGG_FUZZ=N takes N times as many, other ones in each run.

NBFAGG_FUZZ=200 pytest tests/test_properties.py tests/test_state.py tests/test_gradient.py
"""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# For asv_bench, which is not installed; at the end, for the nbfagg to be tested is the one that is.
sys.path.append(str(Path(__file__).parents[1]))

FUZZ = int(os.environ.get("NBFAGG_FUZZ", "0"))

# No deadline: the first call of a kernel loads or compiles it.
common = settings(database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# By default the same examples in every run.
settings.register_profile("steady", common, derandomize=True, max_examples=60)
settings.register_profile("long", common, max_examples=60 * max(1, FUZZ), print_blob=True)
settings.load_profile("long" if FUZZ else "steady")
