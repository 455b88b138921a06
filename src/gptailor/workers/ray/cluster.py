"""Join a Ray cluster, and count the workers that it has room for.

Ray tries for minutes to join an address that does not answer. So another process, with a time
limit, tries to join first.
"""

import functools
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import ray

from gptailor.errors import ConfigError

__all__ = ["FINEST_SHARE", "Needs", "in_short", "join", "needs_of"]

FINEST_SHARE = 1e-4  # Ray counts devices in ten thousandths
_JOIN_S = 15.0  # for a cluster to answer; a running one takes a second or two
_CONNECT_S = 5.0  # for a machine to answer
_MAX_REASON = 240  # characters of Ray's own messages


@dataclass(frozen=True, slots=True)
class Needs:
    """The device and cores that one worker needs on a node."""

    device: str  # ``cuda`` or ``cpu``
    threads: int
    gpus: float  # share of a GPU; 0 on ``cpu``, where it has a core for each thread instead

    def room(self) -> int:
        """How many such workers the cluster's nodes have room for; ConfigError if for none."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self.gpus:  # one that shares a GPU has its share of a single one
            room = sum(int(node.get("GPU", 0)) * int(1 / self.gpus + 1e-9) for node in nodes)
            wanted = f"{self.gpus:g} GPU"
        else:
            room = sum(int(node.get("CPU", 0)) // self.threads for node in nodes)
            wanted = f"{self.threads} CPU"
        if room == 0:
            raise ConfigError(
                f"workers: no node of the Ray cluster has {wanted} for a worker; lower "
                "engine.threads, or add nodes"
            )
        return room


def needs_of(device: str, threads: int | None, share: float) -> Needs:
    """What each worker needs on the cluster that was joined: `share` of a GPU, if it has any."""
    kind, _, number = device.partition(":")
    if number or kind == "mps":
        raise ConfigError(
            f"engine.device: {device} names a device of one machine; with workers on Ray "
            "say auto, cuda or cpu"
        )
    has_gpus = ray.cluster_resources().get("GPU", 0.0) > 0
    if kind == "cuda" and not (has_gpus and share):
        raise ConfigError(
            "engine.device: cuda is asked for, but "
            + ("workers.options.devices_per_worker is 0" if has_gpus else "no node has a GPU")
            + "; say auto or cpu"
        )
    if kind != "cpu" and has_gpus and share:
        # rounded down, so that as many share a GPU as was meant
        return Needs("cuda", threads or 1, int(share / FINEST_SHARE + 1e-6) * FINEST_SHARE)
    return Needs("cpu", threads or 1, 0.0)


def join(address: str) -> bool:
    """Join a cluster, unless this process has joined one already; return whether it did so here."""
    where = "workers.options.address"
    _refuse_address(address, where)
    if ray.is_initialized():
        return False
    named = os.environ.get("RAY_ADDRESS")
    if address == "auto" and named:  # as Ray reads it
        where, address = f"RAY_ADDRESS (read for {where}: auto)", named
        _refuse_address(address, where)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports nothing
    if address != "local":
        _try(address, where)
    _joined(address, where)
    return True


def in_short(error: BaseException) -> str:
    """The line of one of Ray's errors that says the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Version mismatch"):
        return " ".join(lines)
    causes = [line for line in lines if line.startswith("The actor ") and " because " in line]
    reason = next(iter(causes or lines), type(error).__name__)
    return reason[:_MAX_REASON].rstrip(".: ")


def _refuse_address(address: str, where: str) -> None:
    host, _, port = address.rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 2**16
    if not (re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", host) and is_port) and (
        address not in ("auto", "local")
    ):
        raise ConfigError(
            f"{where}: must be auto, local, or the host:port of a cluster's head, not {address!r}"
        )


def _joined(address: str, where: str) -> None:
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # noqa: BLE001  # Ray has no kind of its own for all of these
        reason = in_short(error)
        advice = "start one with 'ray start --head', or say address: local"
        if reason.startswith("Version mismatch"):
            advice = "give every machine the same versions"
        raise ConfigError(
            f"{where}: no Ray cluster could be joined at {address} ({reason}); {advice}"
        ) from None


@functools.cache  # a cluster that answered a moment ago need not be tried again
def _try(address: str, where: str) -> None:
    """Join a cluster in another process, which is ended when it takes too long."""
    limit = str(_JOIN_S)
    command = [sys.executable, "-P", "-m", "gptailor.workers.ray.cluster", address, where, limit]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 2:
        raise ConfigError(done.stdout.strip())
    if done.returncode != 0:
        raise ConfigError(
            f"{where}: {address} did not answer as a Ray cluster within {_JOIN_S:g} s; give the "
            "host:port of the head of a running one, 6379 unless it was started with another, and "
            "see that this machine belongs to it ('ray start --address=HEAD:PORT')"
        )


def _join_and_leave(address: str, where: str, limit: str) -> None:
    """Join and leave; what `_try` runs in another process."""
    signal.setitimer(signal.ITIMER_REAL, float(limit))  # ends this process, even where Ray waits
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        except OSError as error:
            raise ConfigError(
                f"{where}: {address} can't be reached ({error}); give the host:port of the head "
                "of a running Ray cluster, 6379 unless it was started with another"
            ) from None
    _joined(address, where)
    ray.shutdown()


if __name__ == "__main__":
    try:
        _join_and_leave(*sys.argv[1:])
    except ConfigError as error:
        sys.stdout.write(str(error))
        raise SystemExit(2) from None
