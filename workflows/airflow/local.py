"""Airflow on this machine alone: its web server (on loopback), DAG processor and scheduler, a process each.

`airflow standalone` would open its log servers on all addresses and start 32 workers; here nothing listens but the web
server, on 127.0.0.1, and as many tasks run as `TASKS` says. Airflow has an environment of its own, whose commands are
called; this module imports nothing of it.

    python -m star_ctr.workflows.airflow.local --port 8080     # what `make airflow` runs
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
HOST = "127.0.0.1"
USER = "admin"
TASKS = 2
_SERVICES = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
}


class LocalAirflow:
    """Airflow's three processes, from `with` to its end.

    `venv`: Airflow's environment; `home`: its `AIRFLOW_HOME`, made if it is not there, for this user alone.
    `environment`: variables beside those of this process, `STAR_CTR_…` for the DAG.
    """

    def __init__(self, venv: Path, home: Path, port: int, environment: Mapping[str, str] | None = None) -> None:
        self.program = venv.absolute() / "bin/airflow"
        self.home = home.absolute()
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.environment = {**os.environ, **self._settings(), **(environment or {})}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._token: str | None = None

    def _settings(self) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(TASKS),
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
            raise UserError(f"{self.program}: Airflow is not set up; run: make airflow-env")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError:
                raise UserError(f"port {self.port} of {HOST} is taken; give another one: --port") from None
        # The passwords and the key of its tokens lie in there.
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
        """What a command of Airflow's prints; `UserError` with its last lines where it fails."""
        done = subprocess.run(
            [self.program, *arguments], env=self.environment, cwd=self.home, capture_output=True, text=True, check=False
        )
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise UserError(f"airflow {' '.join(arguments)} failed:\n{tail}")
        return done.stdout

    def _start(self, service: str) -> None:
        with self.log(service).open("ab") as log:
            self.running[service] = subprocess.Popen(
                [self.program, *_SERVICES[service]],
                env=self.environment, cwd=self.home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def log(self, service: str) -> Path:
        """Where a process writes what it says."""
        return self.home / f"{service}.log"

    def find_ended(self) -> str | None:
        """The name of a process that has ended, where one has."""
        return next((name for name, process in self.running.items() if process.poll() is not None), None)

    def _wait(self, *parts: str, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if name := self.find_ended():
                raise UserError(f"airflow {name} has ended; its words: {self.log(name)}")
            try:
                health = self._ask("/api/v2/monitor/health", "GET", None, {})
                if all(health[part]["status"] == "healthy" for part in parts):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.5)
        raise UserError(f"Airflow is not healthy after {seconds:.0f} s; see the logs in {self.home}")

    def password(self) -> str:
        """The password of `admin`, which Airflow made up at its first start in this home."""
        found: dict[str, str] = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())
        return found[USER]

    def call(self, path: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that the web server answers on a path of its API, asked as `admin`."""
        if self._token is None:
            login = {"username": USER, "password": self.password()}
            self._token = self._ask("/auth/token", "POST", login, {})["access_token"]
        return self._ask(f"/api/v2/{path}", method, body, {"Authorization": f"Bearer {self._token}"})

    def _ask(self, path: str, method: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def stop(self, seconds: float = 60) -> None:
        """End all processes; tasks too are told to stop (a training saves first), to be tried again after a start."""
        for name in reversed(_SERVICES):
            process = self.running.pop(name, None)
            if process is None:
                continue
            for how in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, how)
                    process.wait(seconds)
                    break
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue


def main() -> None:
    """Run until Ctrl-C, or until one of the processes ends."""
    parser = argparse.ArgumentParser(prog="local_airflow", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--venv", type=Path, default=Path(".airflow/venv"), help="Airflow's environment")
    parser.add_argument("--home", type=Path, default=Path(".airflow/home"), help="its AIRFLOW_HOME")
    parser.add_argument("--port", type=int, default=8080, help="of the web server")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if os.environ.get("STAR_CTR_CONF") and not os.environ.get("STAR_CTR_FIRST_NIGHT"):
            raise UserError("STAR_CTR_CONF needs STAR_CTR_FIRST_NIGHT, the first day that its logs can train and judge")
        with LocalAirflow(arguments.venv, arguments.home, arguments.port) as airflow:
            print(f"Airflow: {airflow.url}/dags/star_nightly   user {USER}, password {airflow.password()}", flush=True)
            print(f"The DAG is paused until you switch it on there. Logs: {airflow.home}. Ctrl-C ends it.", flush=True)
            while not (name := airflow.find_ended()):
                time.sleep(1)
            raise UserError(f"airflow {name} has ended; its words: {airflow.log(name)}")
    except UserError as error:
        sys.exit(f"airflow: {error}")
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    main()
