"""Log messages in the terminal and in the log files of the warehouse."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from star_ctr import __version__
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.workflows import run_log
from star_ctr.workflows.cli import app
from star_ctr.workflows.lease import hold_lease


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "warehouse").mkdir()
    return load("demo", [f"paths.warehouse={tmp_path}/warehouse"])


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("star_ctr")
    before = list(logger.handlers), logger.level, logger.propagate
    yield logger
    logger.handlers, logger.level, logger.propagate = before


def test_the_file_has_all_messages_and_the_traceback(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run_log.configure_terminal("warning")
    with pytest.raises(UserError), run_log.log_to_warehouse(settings, "ingest") as file:  # noqa: PT012
        logging.getLogger("star_ctr.jobs.ingest").debug("three rows")
        logging.getLogger("star_ctr.jobs.ingest").warning("a clock is wrong")
        raise UserError("the log is empty")
    assert file is not None
    assert file.parent == Path(settings.paths.warehouse) / "run_logs"
    assert "-ingest-" in file.name
    text = file.read_text()
    for words in ("three rows", "a clock is wrong", "Traceback", "UserError: the log is empty", '"name": "demo"'):
        assert words in text
    assert capsys.readouterr().err == "WARNING star_ctr.jobs.ingest: a clock is wrong\n"
    assert not [h for h in logging.getLogger("star_ctr").handlers if isinstance(h, logging.FileHandler)]


def test_secrets_are_not_written(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = {
        "spark.hadoop.fs.s3a.secret.key": "hush", "spark.hadoop.fs.s3a.access.key": "hush",
        "spark.hadoop.fs.azure.account.key.shop": "hush", "spark.url": "jdbc:x?password=hush", "spark.x": "plain",
    }  # fmt: skip
    secretive = settings.model_copy(update={"spark": settings.spark.model_copy(update={"conf": conf})})
    monkeypatch.setattr("sys.argv", ["star-ctr", "ingest", "--set", "spark.conf={spark.x.password: hush}"])
    with run_log.log_to_warehouse(secretive, "ingest") as file:
        assert file is not None
    text = file.read_text()
    assert "hush" not in text
    assert '"spark.x": "plain"' in text
    assert "spark.conf=***" in text
    with hold_lease(secretive):
        rows = read_rows(f"{secretive.paths.warehouse}/lease")
    assert "spark.conf=***" in rows[0]["command"]
    assert "hush" not in str(rows)


def test_a_log_file_creates_no_warehouse(tmp_path: Path) -> None:
    with run_log.log_to_warehouse(load("demo", [f"paths.warehouse={tmp_path}/typo"]), "promote") as file:
        assert file is None
    assert not (tmp_path / "typo").exists()


def test_old_files_are_deleted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "_MAX_FILES", 2)
    files = []
    for name in ("a", "b", "c"):
        with run_log.log_to_warehouse(settings, name) as file:
            assert file is not None
            files.append(file)
    assert [file.exists() for file in files] == [False, True, True]


def test_other_files_are_never_deleted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "_MAX_FILES", 1)
    folder = Path(settings.paths.warehouse) / "run_logs"
    folder.mkdir(parents=True)
    others = [folder / f"2026-01-0{day}.log" for day in range(1, 5)]
    for file in others:
        file.touch()
    for _ in range(3):
        with run_log.log_to_warehouse(settings, "ingest"):
            pass
    assert all(file.exists() for file in others)
    assert len(list(folder.iterdir())) == len(others) + 1


def test_a_full_disk_does_not_replace_the_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "_open_file", lambda settings, command: logging.FileHandler("/dev/full"))
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with run_log.log_to_warehouse(settings, "ingest"):
        pass
    with pytest.raises(KeyError), run_log.log_to_warehouse(settings, "ingest"):
        raise KeyError("the real error")


def test_a_warehouse_in_an_object_store_has_no_log_files(settings: Settings) -> None:
    paths = settings.paths.model_copy(update={"warehouse": "s3://bucket/ctr"})
    with run_log.log_to_warehouse(settings.model_copy(update={"paths": paths}), "ingest") as file:
        assert file is None


def test_a_folder_that_cannot_be_written_is_a_warning(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run_log.configure_terminal("warning")
    (Path(settings.paths.warehouse) / "run_logs").write_text("a file")
    with run_log.log_to_warehouse(settings, "ingest") as file:
        assert file is None
    assert "cannot write a log file" in capsys.readouterr().err


def test_version_and_levels() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"star-ctr {__version__}\n"
    wrong = CliRunner().invoke(app, ["--log-level", "loud", "steps"])
    assert wrong.exit_code == 2
    assert CliRunner().invoke(app, ["--log-level", "info", "steps"]).exit_code == 0


def test_messages_go_to_the_current_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller may have replaced stderr when logging was configured, and closed it since."""
    closed = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", closed)
        run_log.configure_terminal("warning")
        closed.close()
    opened = io.StringIO()
    monkeypatch.setattr("sys.stderr", opened)
    logging.getLogger("star_ctr.jobs").warning("too few steps")
    assert opened.getvalue() == "WARNING star_ctr.jobs: too few steps\n"
