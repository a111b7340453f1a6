"""Use an installed edgelstm as a stranger would, torch and onnx not there: python tools/try_wheel.py BIN PICTURES WORK

BIN is the environment's folder of commands, PICTURES a folder of digit pictures (label = folder), WORK a
folder to run in. Needs only the standard library. Exits 1 at the first thing that does not work.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

COMMANDS = ("train", "export", "verify", "infer", "stream", "bench", "inspect", "doctor")


def main() -> None:
    commands, pictures, work = (Path(argument).resolve() for argument in sys.argv[1:4])
    work.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "EDGELSTM_DATA": str(work / "no-mnist")}

    def edgelstm(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [str(commands / "edgelstm"), *arguments], cwd=work, env=environment, capture_output=True, text=True
        )
        if done.returncode != status or "Traceback" in done.stderr:
            sys.exit(f"edgelstm {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout or done.stderr

    blocked = subprocess.run([str(commands / "python"), "-c", "import torch"], capture_output=True)
    if blocked.returncode == 0:
        sys.exit("torch is installed here: this environment proves nothing")
    edgelstm("--help")
    for command in COMMANDS:
        edgelstm(command, "--help")
    lines = edgelstm("infer", "--json", str(pictures)).splitlines()
    answers = [json.loads(line) for line in lines]
    right = sum(answer["label"] == Path(answer["source"]).parent.name for answer in answers)
    if len(answers) < 10 or right < 0.8 * len(answers):
        sys.exit(f"infer: {right} of {len(answers)} pictures right")
    report = json.loads(edgelstm("bench", "--json", "--seconds", "1"))
    accuracy = report["results"][0]["accuracy"]
    if accuracy["n"] != 1000 or accuracy["n_right"] < 980:
        sys.exit(f"bench: {accuracy}")
    edgelstm("inspect", "base")
    edgelstm("doctor")
    for needs_train in ("export", "verify"):
        message = edgelstm(needs_train, status=1)
        if "edgelstm[train]" not in message:
            sys.exit(f"{needs_train} without torch does not say what to install: {message}")
    print(f"the wheel alone works: {right}/{len(answers)} pictures, {accuracy['n_right']}/1000 digits")


if __name__ == "__main__":
    main()
