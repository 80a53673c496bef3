"""placeholder"""

from typing import Any


def difference(store: Any, settings: Any, run_id: str, against: str) -> list[dict[str, Any]]:
    raise NotImplementedError
