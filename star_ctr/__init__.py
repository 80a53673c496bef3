"""star-ctr: nightly multi-domain CTR prediction with the Star Topology Adaptive Recommender.

The packages `conf`, `features`, `jobs`, `model` and `workflows` are in the root of the repository. They are linked into
this folder as subpackages, so that everything is imported and installed under the single name `star_ctr` and cannot
collide with another package named `conf` or `model`.
"""

import os

__version__ = "0.1.0"

# Let idle OpenMP threads spin for about 0.1 ms (the time it takes to sleep and wake up), then sleep. By default they
# spin for many milliseconds, which makes training many times slower next to other processes. OpenMP reads these
# variables once, when torch is loaded, and the modules of this package import torch after this point. Results do not
# change.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
