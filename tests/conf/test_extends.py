"""YAML files that extend other files: merging, positions of errors, and files that cannot be extended."""

from __future__ import annotations

from pathlib import Path

import pytest

from star_ctr.conf.contracts.run_id import hash_config
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from star_ctr.conf.reference import make_schema
from star_ctr.conf.yaml_files import merge, read_yaml_files
from tests.conftest import ROOT


def write(folder: Path, **files: str) -> Path:
    """Write YAML files, and return the first one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def get_problem(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    return str(caught.value)


def test_mappings_are_merged_and_lists_are_replaced(tmp_path: Path) -> None:
    base = load("demo")
    file = write(tmp_path, mine="extends: demo\nmodel: {layers: [8], dropout: 0.1}\nwindow: {days: 2}\n")
    settings = load(file)
    assert settings.model.layers == [8]
    assert settings.model.dropout == 0.1
    assert settings.window.days == 2
    assert settings.model.dim == base.model.dim == 8, "other keys of the section are kept"
    assert settings.trainer == base.trainer
    assert settings.paths == base.paths, "relative to the working directory, not to the file"
    assert hash_config(load(file, ["model.layers=[128, 64]", "model.dropout=0", "window.days=3"])) == hash_config(base)


def test_files_extend_files_relative_to_their_folder(tmp_path: Path) -> None:
    base = (ROOT / "conf/demo.yaml").read_text()
    write(tmp_path, base=base)
    write(tmp_path / "a", middle="extends: ../base.yaml\nname: middle\nwindow: {days: 2}\n")
    top = write(tmp_path / "b" / "c", top="extends: ../../a/middle.yaml\nwindow: {days: 1}\n")
    settings = load(top)
    assert (settings.name, settings.window.days) == ("middle", 1)
    assert [file.path.name for file in read_yaml_files(str(top))] == ["top.yaml", "middle.yaml", "base.yaml"]
    assert load(top, ["window.days=5"]).window.days == 5, "--set takes precedence"


def test_a_value_replaces_a_mapping_and_the_other_way_round(tmp_path: Path) -> None:
    write(tmp_path, base="a: {b: 1, c: {d: 2}}\ne: 3\nf: [1, 2]\n")
    top = write(tmp_path, top="extends: base.yaml\na: {c: 4}\ne: {g: 5}\nf: [3]\n")
    assert merge(read_yaml_files(str(top))) == {"a": {"b": 1, "c": 4}, "e": {"g": 5}, "f": [3]}


def test_errors_name_the_file_that_contains_the_value(tmp_path: Path) -> None:
    base = (ROOT / "conf/demo.yaml").read_text()
    line = next(i for i, text in enumerate(base.splitlines(), 1) if text.startswith("window:"))
    write(tmp_path, base=base.replace("window: {days: 3}", "window: {days: 0}"))
    top = write(tmp_path, top="extends: base.yaml\nmodel: {dropot: 1}\n")
    problem = get_problem(top)
    assert f"base.yaml:{line}: window.days: this must be at least 1" in problem
    assert "top.yaml:2: model.dropot: unknown key; did you mean `dropout`" in problem
    fixed = write(tmp_path, fixed="extends: base.yaml\nwindow: {days: -1}\n")
    assert "fixed.yaml:2: window.days: this must be at least 1 (got `-1`)" in get_problem(fixed)


def test_a_variable_that_is_not_set_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGS_OF_THE_SHOP", raising=False)
    base = (ROOT / "conf/demo.yaml").read_text()
    write(tmp_path, base=base.replace("logs: warehouse/demo-logs", "logs: ${LOGS_OF_THE_SHOP}/x"))
    assert f"{tmp_path}/base.yaml: `${{LOGS_OF_THE_SHOP}}/x`" in get_problem(
        write(tmp_path, top="extends: base.yaml\n")
    )


def test_cycles_and_missing_files_are_named(tmp_path: Path) -> None:
    first = write(tmp_path, first="name: x\nextends: second.yaml\n", second="extends: ./first.yaml\n")
    problem = get_problem(first)
    assert "second.yaml:1: extends: a file cannot extend itself" in problem
    assert "first.yaml -> " in problem
    own = write(tmp_path, own="extends: own.yaml\n")
    assert "own.yaml:1: extends: a file cannot extend itself" in get_problem(own)
    lost = write(tmp_path, lost="extends: ../nowhere.yaml\n")
    assert f"lost.yaml:1: extends: no such file: {tmp_path}/../nowhere.yaml" in get_problem(lost)
    assert "lost.yaml:1: extends: this must be the path" in get_problem(write(tmp_path, lost="extends: [a]\n"))


def test_extends_is_only_valid_in_a_file() -> None:
    with pytest.raises(ConfigError, match="--set extends=kuairand: `extends` is only valid in a YAML file"):
        load("demo", ["extends=kuairand"])


def test_the_schema_accepts_a_file_with_changes_only() -> None:
    schema = make_schema()
    assert {"type": "string"} in schema["properties"]["extends"]["anyOf"]
    assert "required" not in schema
    assert "name" in schema["else"]["required"]
