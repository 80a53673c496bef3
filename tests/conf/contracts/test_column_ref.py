"""References to columns in settings."""

from __future__ import annotations

import json
import pickle

import pytest
from pydantic import BaseModel, ValidationError

from star_ctr.conf.contracts.column_ref import ColumnRef


class Model(BaseModel):
    column: ColumnRef
    names: dict[ColumnRef, str] = {}


def test_parts_of_a_reference() -> None:
    item = ColumnRef("items.device.id")
    assert (item.table, item.column, item.flat) == ("items", "device.id", "items_device_id")
    plain = ColumnRef("user_id")
    assert (plain.table, plain.column, plain.flat) == (None, "user_id", "user_id")


@pytest.mark.parametrize(
    ("text", "words"),
    [("user", "did you mean `user_id`"), ("itms.a", "did you mean `items`"), ("items.", "not a column")],
)
def test_other_texts_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Model.model_validate({"column": text})


def test_references_are_written_as_text() -> None:
    model = Model.model_validate({"column": "items.a", "names": {"users.b": "x"}})
    assert isinstance(model.column, ColumnRef)
    assert all(isinstance(name, ColumnRef) for name in model.names)
    assert json.loads(model.model_dump_json()) == {"column": "items.a", "names": {"users.b": "x"}}
    assert pickle.loads(pickle.dumps(model.column)).table == "items"
