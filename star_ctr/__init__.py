"""star-ctr: nightly multi-domain CTR prediction with the Star Topology Adaptive Recommender.

The rooms of the house (`conf`, `features`, `jobs`, `model`, `workflows`) stand at the top of the
repository; here they are linked in as subpackages, so that everything is imported, installed and shipped
under the one name `star_ctr` and cannot collide with anybody's `conf` or `model`.
"""

__version__ = "0.1.0"

import os

# Threads that wait for work sleep instead of spinning: where other processes need the cores, threads of torch that spin
# keep one another from running, and a training becomes many times slower. OpenMP reads this once, when torch is loaded,
# which every module of this package does after this line. It changes no result.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
