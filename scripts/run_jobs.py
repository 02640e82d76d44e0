"""Run Kubernetes Jobs as local processes, one Job after the other.

Usage: run_jobs.py JOB.yaml... --volume NAME=FOLDER...

What is run is each manifest's own command line, in the environment that Kubernetes would give it;
only paths below a mounted volume are made paths below the local folder. Volumes that start empty
(emptyDir) are temporary folders. A process that fails or is killed is started again as the Job's
back-off limits and exit code rules say; resources, users and networks are not imitated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

SECONDS_BETWEEN_LOOKS = 0.02
DEFAULT_BACKOFF_LIMIT = 6


class Job:
    """One Job manifest whose paths are those of this machine."""

    def __init__(self, path: Path, folders: dict[str, Path], scratch: Path) -> None:
        manifest = yaml.safe_load(path.read_text())
        if manifest["kind"] != "Job":
            raise SystemExit(f"run_jobs: {path} is a {manifest['kind']}, not a Job")
        self.name: str = manifest["metadata"]["name"]
        self.spec: dict[str, Any] = manifest["spec"]
        pod = self.spec["template"]["spec"]
        (self.container,) = pod["containers"]
        self.mounts = {
            mount["mountPath"].rstrip("/"): self._folder(mount["name"], pod, folders, scratch)
            for mount in self.container["volumeMounts"]
        }
        self.indexed = self.spec.get("completionMode") == "Indexed"
        self.limit = self.spec.get("backoffLimit", DEFAULT_BACKOFF_LIMIT)
        if self.indexed:
            self.limit = self.spec.get("backoffLimitPerIndex", self.limit)

    def _folder(self, name: str, pod: dict, folders: dict[str, Path], scratch: Path) -> Path:
        (volume,) = (v for v in pod["volumes"] if v["name"] == name)
        if "emptyDir" in volume:
            folder = scratch / name
            folder.mkdir(exist_ok=True)
            return folder
        if name not in folders:
            raise SystemExit(f"run_jobs: {self.name} mounts {name}; give --volume {name}=FOLDER")
        return folders[name].absolute()

    def local(self, text: str) -> str:
        """Return an argument or value with the mounted path in it, if any, made a local one."""
        flag, equals, value = text.rpartition("=") if text.startswith("--") else ("", "", text)
        for mounted, folder in self.mounts.items():
            if value == mounted or value.startswith(f"{mounted}/"):
                return f"{flag}{equals}{folder}{value.removeprefix(mounted)}"
        return text

    def start(self, index: int) -> subprocess.Popen[bytes]:
        """Start the container's command as the pod of that index."""
        command = [
            self.local(part) for part in (*self.container["command"], *self.container["args"])
        ]
        given = {v["name"]: self.local(v["value"]) for v in self.container.get("env", [])}
        if self.indexed:
            given["JOB_COMPLETION_INDEX"] = str(index)
        return subprocess.Popen(command, env={**os.environ, **given})

    def action_at(self, code: int) -> str:
        """Return what the failure policy says of an exit code: FailIndex, FailJob, or nothing."""
        for rule in self.spec.get("podFailurePolicy", {}).get("rules", []):
            codes = rule.get("onExitCodes")
            if codes and (code in codes["values"]) == (codes["operator"] == "In"):
                return rule["action"]
        return ""

    def run(self) -> bool:
        """Run every index until it succeeds or fails for good; say whether all succeeded."""
        waiting = deque((index, 0) for index in range(self.spec.get("completions", 1)))
        running: dict[int, tuple[int, int, subprocess.Popen[bytes]]] = {}
        failed = 0
        try:
            while waiting or running:
                while waiting and len(running) < self.spec.get("parallelism", 1):
                    index, failures = waiting.popleft()
                    process = self.start(index)
                    running[process.pid] = (index, failures, process)
                    print(f"{self.name} {index}: started as process {process.pid}", flush=True)
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for pid, (index, failures, process) in list(running.items()):
                    if (code := process.poll()) is None:
                        continue
                    del running[pid]
                    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                    print(f"{self.name} {index}: process {pid} ended, {ended}", flush=True)
                    if code == 0:
                        continue
                    action = self.action_at(code)
                    if action == "FailJob":
                        print(f"{self.name}: failed, no other try would help", flush=True)
                        return False
                    if failures < self.limit and action != "FailIndex":
                        waiting.append((index, failures + 1))
                    else:
                        failed += 1
        finally:
            for _, _, process in running.values():
                with suppress(ProcessLookupError):
                    process.terminate()
                process.wait()
        print(f"{self.name}: {'complete' if not failed else f'{failed} failed'}", flush=True)
        return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="+", type=Path, metavar="JOB.yaml")
    parser.add_argument("--volume", action="append", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    folders = {
        name: Path(folder) for name, _, folder in (v.partition("=") for v in arguments.volume)
    }
    scratch = Path(tempfile.mkdtemp(prefix="run-jobs-"))
    try:
        return 0 if all(Job(path, folders, scratch).run() for path in arguments.jobs) else 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
