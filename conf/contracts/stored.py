"""Parse models that are stored in records and tables."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from star_ctr.conf.errors import DataError

M = TypeVar("M", bound=BaseModel)


def parse_stored(model: type[M], value: str | dict[str, Any], where: object) -> M:
    """Parse a stored model.

    Args:
        model: The type of the model.
        value: The stored JSON, or the values that were read from it.
        where: The file or table, for the error message.

    Returns:
        The model.

    Raises:
        DataError: The value is damaged, or was written by a version of star-ctr with other settings.
    """
    try:
        return model.model_validate_json(value) if isinstance(value, str) else model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise DataError(
            f"{where}: not a valid {model.__name__} ({problem}). The file is damaged, or another version of star-ctr "
            "wrote it; run the night again"
        ) from None
