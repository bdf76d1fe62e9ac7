"""Run the blocks that standard input gives as JSON, one after another; the first failure ends it."""

import json
import subprocess
import sys
from typing import Any

names: dict[str, Any] = {"__name__": "__main__"}
for language, where, text in json.load(sys.stdin):
    print(f"--- {where}", flush=True)
    if language == "sh":
        if subprocess.run(["bash", "-e", "-o", "pipefail", "-c", text], check=False).returncode:
            sys.exit(f"{where}: a command failed")
    else:
        exec(compile(text, where, "exec"), names)
print("--- end", flush=True)
