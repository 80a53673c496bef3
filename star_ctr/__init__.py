"""star-ctr: nightly multi-domain CTR prediction with the Star Topology Adaptive Recommender.

The rooms of the house (`conf`, `features`, `jobs`, `model`, `workflows`) stand at the top of the
repository; here they are linked in as subpackages, so that everything is imported, installed and shipped
under the one name `star_ctr` and cannot collide with anybody's `conf` or `model`.
"""

import os

__version__ = "0.1.0"

# Let idle OpenMP threads spin for about 0.1 ms (the time it takes to sleep and wake up), then sleep. By default they
# spin for many milliseconds, which makes training many times slower next to other processes. OpenMP reads these
# variables once, when torch is loaded, and the modules of this package import torch after this point. Results do not
# change.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
