"""Read GGUF files with llama.cpp's server; print what it writes, a JSON line a file.

Usage: python by_llama_server.py ASK.json FILE... (with LLAMA_SERVER, the program)
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

program = os.environ["LLAMA_SERVER"]
ask = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
n_new = ask["n_new"]
OPTIONS = "--ctx-size 128 --parallel 1 --threads 1 --flash-attn off --no-warmup --no-webui"
CACHE = "--cache-type-k f32 --cache-type-v f32"
STARTS_WITHIN_S = 60


def post(address: str, plain: dict[str, Any]) -> dict[str, Any]:
    """Send JSON and read JSON."""
    body = json.dumps(plain).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server has read its model."""
    end = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end:
        if server.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            errors = [line for line in lines if "error" in line.lower()] or lines[-1:]
            raise RuntimeError(f"the server ended: {errors[0] if errors else 'without a word'}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start in time")


def answers_of(file: str) -> dict[str, Any]:
    """What the server makes of one file."""
    port, log = free_port(), Path(f"{file}.log")
    address = f"http://127.0.0.1:{port}"
    command = [program, "-m", file, "--port", str(port), *OPTIONS.split(), *CACHE.split()]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(address, server, log)
        split = post(f"{address}/tokenize", {"content": ask["text"], "add_special": True})
        made = post(
            f"{address}/completion",
            {"prompt": ask["prompt"], "n_predict": n_new, "temperature": 0, "ignore_eos": True,
             "return_tokens": True, "cache_prompt": False},
        )  # fmt: skip
        chat = post(f"{address}/apply-template", {"messages": ask["chat"]})
        return {"split": split["tokens"], "tokens": made["tokens"], "chat": chat["prompt"]}
    finally:
        server.kill()
        server.wait()


said = subprocess.run([program, "--version"], capture_output=True, text=True)
version = (said.stderr + said.stdout).partition("version: ")[2].split()[0]
print(json.dumps({"version": version}), flush=True)
for file in sys.argv[2:]:
    try:
        told = answers_of(file)
    except Exception as error:  # noqa: BLE001  # of another program; it is written down
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"model": file, **told}), flush=True)
