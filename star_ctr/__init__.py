"""star-ctr: nightly multi-domain CTR prediction with the Star Topology Adaptive Recommender.

The packages `conf`, `features`, `jobs`, `model` and `workflows` are in the root of the repository. They are linked into
this folder as subpackages, so that everything is imported and installed under the single name `star_ctr` and cannot
collide with another package named `conf` or `model`.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Let idle OpenMP threads spin for about 0.1 ms (the time it takes to sleep and wake up), then sleep. By default they
# spin for many milliseconds, which makes training many times slower next to other processes. OpenMP reads these
# variables once, when torch is loaded, and the modules of this package import torch after this point. Results do not
# change.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}

if TYPE_CHECKING:
    from star_ctr.conf.errors import UserError
    from star_ctr.workflows.api import Project
    from star_ctr.workflows.api import open_project as open  # noqa: A004

__all__ = ["Project", "UserError", "__version__", "open"]
_API = {
    "open": ("star_ctr.workflows.api", "open_project"),
    "Project": ("star_ctr.workflows.api", "Project"),
    "UserError": ("star_ctr.conf.errors", "UserError"),
}
"""Module and name of each part of the Python API."""


def __getattr__(name: str) -> Any:
    """Import the Python API on first use, so that commands start fast."""
    if name in _API:
        module, attribute = _API[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module `star_ctr` has no attribute `{name}`")
