"""star-ctr: nightly multi-domain CTR prediction with the Star Topology Adaptive Recommender.

The rooms of the house (`conf`, `features`, `jobs`, `model`, `workflows`) stand at the top of the
repository; here they are linked in as subpackages, so that everything is imported, installed and shipped
under the one name `star_ctr` and cannot collide with anybody's `conf` or `model`.
"""

__version__ = "0.1.0"
