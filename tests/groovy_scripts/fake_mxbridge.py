"""A program that stands in for ``python -m mxbridge``: it answers as the command line does, or it misbehaves.

``fake_mxbridge.py BEHAVIOUR.json [-m mxbridge] WORDS...``; what it was asked is added to ``asked.jsonl`` beside the behaviour.
Keys of a behaviour, by the first words of the command: ``stderr`` (lines), ``answer`` (a document), ``text`` (instead of it),
``code``, ``children`` (a file for process ids: it starts a child and waits to be ended), ``kill`` (it ends itself from outside).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    path, words = Path(sys.argv[1]), sys.argv[4:]
    with (path.parent / "asked.jsonl").open("a", encoding="utf-8") as log:
        log.write(
            json.dumps({"words": words, "safe": os.environ.get("PYTHONSAFEPATH"), "home": os.environ.get("PYTHONHOME")})
            + "\n"
        )
    command = " ".join(words[:2]) if words[0] == "qupath" else words[0]
    behaviour = json.loads(path.read_text(encoding="utf-8"))[command]
    for line in behaviour.get("stderr", ()):
        print(line, file=sys.stderr, flush=True)
    if "children" in behaviour:
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)"])  # fmt: skip
        part = Path(behaviour["children"] + ".part")
        part.write_text(json.dumps([os.getpid(), child.pid]))
        part.rename(behaviour["children"])
        time.sleep(300)
    if behaviour.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    print(behaviour.get("text") or (json.dumps(behaviour["answer"]) if "answer" in behaviour else ""))
    return behaviour.get("code", 0)


if __name__ == "__main__":
    sys.exit(main())
