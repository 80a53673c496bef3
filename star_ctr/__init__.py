"""star-ctr: nightly multi-domain CTR prediction with the Star Topology Adaptive Recommender.

The rooms of the house (`conf`, `features`, `jobs`, `model`, `workflows`) stand at the top of the
repository; here they are linked in as subpackages, so that everything is imported, installed and shipped
under the one name `star_ctr` and cannot collide with anybody's `conf` or `model`.
"""

import os

__version__ = "0.1.0"

# Threads of OpenMP that wait for one another spin for about a tenth of a millisecond, the time that it takes to fall
# asleep and wake up, and then sleep. By default they spin for many milliseconds: beside other processes they then keep
# one another from running, and a training becomes many times slower. OpenMP reads this once, when torch is loaded,
# which the modules of this package do after this line. It does not change results.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
