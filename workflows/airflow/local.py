"""Run Airflow on this machine only: the web server, the DAG processor and the scheduler.

Each of the three is a process. Only the web server listens, on 127.0.0.1, and at most `MAX_TASKS` tasks run at a time.
By contrast, `airflow standalone` opens log servers on all addresses and starts 32 workers.

Airflow is installed in a separate virtual environment. This module runs its commands and does not import it.

    python -m star_ctr.workflows.airflow.local --port 8080     # `make airflow` runs this command
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from star_ctr.conf.errors import UserError

DAGS = Path(__file__).resolve().parent / "dags"
"""Folder of the DAG file."""
HOST = "127.0.0.1"
"""Address of the web server."""
USER = "admin"
"""User of the web server."""
MAX_TASKS = 2
"""Maximum number of tasks that run at a time."""
_SERVICES = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
}
"""Arguments of the command `airflow` for each process, in the order in which they are started."""


class LocalAirflow:
    """The three processes of Airflow, as a context manager: they run inside the block.

    Args:
        venv: Virtual environment of Airflow.
        home: `AIRFLOW_HOME`. If the folder does not exist, it is created with access only for this user.
        port: Port of the web server.
        environment: Environment variables in addition to those of this process, such as `STAR_CTR_CONF` for the DAG.

    Entering the block raises `UserError` if Airflow is not installed in `venv`, if the port is in use, or if Airflow
    does not become healthy within two minutes.
    """

    def __init__(self, venv: Path, home: Path, port: int, environment: Mapping[str, str] | None = None) -> None:
        self.program = venv.absolute() / "bin/airflow"
        self.home = home.absolute()
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.environment = {**os.environ, **self._settings(), **(environment or {})}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token: str | None = None

    def _settings(self) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(MAX_TASKS),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }

    def __enter__(self) -> LocalAirflow:
        if not self.program.exists():
            raise UserError(f"{self.program} does not exist; install Airflow with `make airflow-env`")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError:
                raise UserError(f"port {self.port} of {HOST} is in use; choose another one with --port") from None
        # Only for this user, because the folder contains passwords and the key that signs tokens.
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run("db", "migrate")
        try:
            for service in _SERVICES:
                self._start(service)
                if service == "api-server":
                    self._wait("metadatabase")
            self._wait("scheduler", "dag_processor")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def run(self, *arguments: str) -> str:
        """Run a command of Airflow.

        Args:
            arguments: Arguments of the command `airflow`.

        Returns:
            The standard output of the command.

        Raises:
            UserError: The command failed; the message contains its last lines.
        """
        done = subprocess.run(
            [self.program, *arguments], env=self.environment, cwd=self.home, capture_output=True, text=True, check=False
        )
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise UserError(f"airflow {' '.join(arguments)} failed:\n{tail}")
        return done.stdout

    def _start(self, service: str) -> None:
        with self.log(service).open("ab") as log:
            self.processes[service] = subprocess.Popen(
                [self.program, *_SERVICES[service]],
                env=self.environment, cwd=self.home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def log(self, service: str) -> Path:
        """Return the path of the log file of a process."""
        return self.home / f"{service}.log"

    def find_ended(self) -> str | None:
        """Return the name of a process that has exited; None if all are running."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)

    def _wait(self, *parts: str, seconds: float = 120) -> None:
        """Wait until parts of Airflow are healthy, according to its web server."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if name := self.find_ended():
                raise UserError(f"airflow {name} has exited; see {self.log(name)}")
            try:
                health = self._request("/api/v2/monitor/health", "GET", None, {})
                if all(health[part]["status"] == "healthy" for part in parts):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.5)
        raise UserError(f"Airflow is not healthy after {seconds:.0f} s; see the logs in {self.home}")

    def password(self) -> str:
        """Return the password of `admin`, which Airflow generated at its first start with this home."""
        found: dict[str, str] = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())
        return found[USER]

    def call(self, path: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> Any:
        """Call the REST API of the web server as user `admin`.

        Args:
            path: Path below `/api/v2/`.
            method: HTTP method.
            body: Body of the request, sent as JSON; None for no body.

        Returns:
            The JSON of the response.
        """
        if self._token is None:
            login = {"username": USER, "password": self.password()}
            self._token = self._request("/auth/token", "POST", login, {})["access_token"]
        return self._request(f"/api/v2/{path}", method, body, {"Authorization": f"Bearer {self._token}"})

    def _request(self, path: str, method: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def stop(self, seconds: float = 60) -> None:
        """Stop all processes, including running tasks.

        Training saves a checkpoint before it stops. Airflow retries stopped tasks after its next start.

        Args:
            seconds: Time to wait for each process after SIGTERM, before it is killed.
        """
        for name in reversed(_SERVICES):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            for stop_signal in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, stop_signal)
                    process.wait(seconds)
                    break
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue


def main() -> None:
    """Run Airflow until Ctrl-C, SIGTERM, or until one of its processes exits (which is an error)."""
    parser = argparse.ArgumentParser(prog="local_airflow", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--venv", type=Path, default=Path(".airflow/venv"), help="virtual environment of Airflow")
    parser.add_argument("--home", type=Path, default=Path(".airflow/home"), help="AIRFLOW_HOME")
    parser.add_argument("--port", type=int, default=8080, help="port of the web server")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if os.environ.get("STAR_CTR_CONF") and not os.environ.get("STAR_CTR_FIRST_NIGHT"):
            raise UserError(
                "STAR_CTR_CONF is set, but STAR_CTR_FIRST_NIGHT is not; set it to the first day that can be evaluated, "
                "for example 2026-03-04"
            )
        with LocalAirflow(arguments.venv, arguments.home, arguments.port) as airflow:
            print(f"Airflow: {airflow.url}/dags/star_nightly   user {USER}, password {airflow.password()}", flush=True)
            print(
                f"The DAG is paused; unpause it in the browser. Logs: {airflow.home}. Press Ctrl-C to stop.", flush=True
            )
            while not (name := airflow.find_ended()):
                time.sleep(1)
            raise UserError(f"airflow {name} has exited; see {airflow.log(name)}")
    except UserError as error:
        sys.exit(f"airflow: {error}")
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
