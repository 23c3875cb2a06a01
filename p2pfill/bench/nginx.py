"""nginx for a benchmark: all that it writes is below one directory, and it runs as whoever runs the benchmark."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Final

TEMP_PATHS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx_config(run: Path, http: str, *, workers: str = "1") -> str:
    """Return the configuration of a master and its workers, which writes below `run` and has this in its `http`."""
    paths = "".join(f"  {kind}_temp_path {run}/{kind};\n" for kind in TEMP_PATHS)
    # A master that is root would make its workers another user, who cannot read here.
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    return (
        f"{user}daemon off;\nworker_processes {workers};\npid {run}/pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\n  sendfile on;\n{paths}  {http}\n}}\n"
    )


def nginx_command(program: str, run: Path, config: Path) -> list[str]:
    """Return the command that runs it in the foreground."""
    return [program, "-e", "stderr", "-p", str(run), "-c", str(config)]
