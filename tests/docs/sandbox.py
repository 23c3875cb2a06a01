"""Three machines in one: directories for their files, addresses of the loopback network for theirs.

Substituted in all blocks, and nothing else is:

| on the pages | in a test |
| --- | --- |
| 192.0.2.N (addresses for documentation, RFC 5737) | 127.A.B.N, with A and B by chance so that tests do not meet |
| /etc, /srv, /var, /opt, /usr/local | the same below the machine's own directory |
| programs | the real ones, but for those in stand_in.py |
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from docs.pages import MACHINES, ROOT, SHOWN, Block
from docs.stand_in import STAND_INS

SHELL_S: Final = 180.0
_PATH = re.compile(r"(?:(?<![\w/.~])|(?<=sqlite:///))/(etc|srv|var|opt|usr/local)/")


class Sandbox:
    """Runs the blocks of one page, in order. Use as a context manager: at its end no process is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._network = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}."
        self._life_read, self._life_write = os.pipe()
        for number in MACHINES:
            self._make_machine(self.machine(number))

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._life_write)
        os.close(self._life_read)
        for number in MACHINES:
            pids = self.machine(number) / "pids"
            for record in pids.iterdir() if pids.exists() else ():
                self._end(int(record.name))

    def _end(self, pid: int) -> None:
        """End one of the processes that stand-ins have started; it leads a session of its own."""
        try:
            if os.getsid(pid) == pid:
                os.killpg(pid, signal.SIGTERM)
        except ProcessLookupError:
            return

    def machine(self, number: str) -> Path:
        """Return the root directory of a machine."""
        return self.directory / f"machine{number}"

    def _make_machine(self, root: Path) -> None:
        for name in ("etc/systemd/system", "etc/nginx/conf.d", "srv", "var/lib", "opt", "usr/local/bin", "bin", "home"):
            (root / name).mkdir(parents=True)
        for name in STAND_INS:
            script = root / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/docs/stand_in.py {name} "$@"\n')
            script.chmod(0o755)
        (root / "bin" / "python").symlink_to("python3")

    def substitute(self, text: str, number: str) -> str:
        """Return text of a page as it reads on a machine of the sandbox."""
        text = text.replace("192.0.2.", self._network)
        return _PATH.sub(lambda match: f"{self.machine(number)}/{match[1]}/", text)

    def run(self, block: Block) -> str:
        """Run a shell block or write a file, on every machine that it is for; return what was printed."""
        said = ""
        for number in block.machines:
            if block.language in SHOWN:
                continue
            text = self.substitute(block.text, number)
            if block.file:
                path = Path(self.substitute(block.file, number))
                path = path if path.is_absolute() else self.machine(number) / "home" / path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif block.language == "sh":
                said += self.shell(text, number, block.where)
            elif block.language == "python":
                program = self.machine(number) / "home" / "block.py"
                program.write_text(text)
                said += self.shell("python block.py", number, block.where)
            else:
                raise AssertionError(f"{block.where}: a {block.language} block must say which file it is")
        return said

    def shell(self, text: str, number: str, where: str) -> str:
        """Run text in a shell of a machine. Fails where it fails."""
        root = self.machine(number)
        environment = {
            "PATH": f"{root}/usr/local/bin:{root}/bin:{os.environ['PATH']}",
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
            "DOCS_MACHINE": str(root),
            "DOCS_PROJECT": str(ROOT),
            "DOCS_LIFE": str(self._life_read),
            "DOCS_PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", text],
            cwd=root / "home",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SHELL_S,
            pass_fds=[self._life_read],
        )
        assert done.returncode == 0, f"{where} on machine {number}:\n{text}\n{done.stdout}"
        return done.stdout
