"""The generated reference of the settings, and the JSON schema."""

from __future__ import annotations

import json

import pytest
import yaml
from pydantic import BaseModel

from star_ctr.conf.reference import make_columns_reference, make_reference, make_schema
from star_ctr.conf.settings.root import Settings
from tests.conftest import ROOT


def test_the_generated_files_are_up_to_date() -> None:
    remedy = "run `star-ctr schema --markdown > docs/settings.md` and `star-ctr schema > conf/settings.schema.json`"
    assert (ROOT / "docs/settings.md").read_text() == make_reference(), remedy
    assert json.loads((ROOT / "conf/settings.schema.json").read_text()) == make_schema(), remedy


def test_the_columns_of_the_tables_page_are_up_to_date() -> None:
    _, heading, section = (ROOT / "docs/tables.md").read_text().partition("## Columns\n")
    remedy = "replace the section `Columns` of docs/tables.md by the output of `star-ctr schema --columns`"
    assert heading + section == make_columns_reference(), remedy


def list_models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    if model not in seen:
        seen.add(model)
        for definition in (field.annotation for field in model.model_fields.values()):
            waiting = [definition]
            while waiting:
                found = waiting.pop()
                waiting += getattr(found, "__args__", ())
                if isinstance(found, type) and issubclass(found, BaseModel):
                    list_models(found, seen)
    return seen


def test_every_setting_has_a_description() -> None:
    missing = [
        f"{model.__name__}.{name}"
        for model in list_models(Settings, set())
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert not missing


@pytest.mark.parametrize("name", ["demo", "kuairand"])
def test_shipped_files_refer_to_the_schema_and_use_known_keys(name: str) -> None:
    text = (ROOT / f"conf/{name}.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=settings.schema.json\n")
    assert set(yaml.safe_load(text)) <= set(make_schema()["properties"])
