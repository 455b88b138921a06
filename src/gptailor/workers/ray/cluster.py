"""Joining a Ray cluster, and what there is room for in it.

Ray itself tries for minutes to join what does not answer, or is no cluster; so a process of its own
tries it out first, and has a time limit. Knows nothing of what workers do.
"""

import functools
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import ray

from gptailor.errors import ConfigError
from gptailor.workers.option_checks import ADDRESS, FINEST_SHARE, address_problems

__all__ = ["Needs", "in_short", "join", "needs_of"]

_JOIN_S = 15.0  # for a cluster to answer; one that is there takes a second or two
_CONNECT_S = 5.0  # for a machine to answer
_LONGEST = 240  # characters of Ray's own words


@dataclass(frozen=True, slots=True)
class Needs:
    """What one worker asks of a node.

    Args:
        device: Where it runs layers: ``cuda`` or ``cpu``.
        threads: CPU threads.
        gpus: Share of a GPU; 0 on ``cpu``, where it has a core for each thread instead.
    """

    device: str
    threads: int
    gpus: float

    def room(self) -> int:
        """How many such workers the cluster's nodes hold.

        Raises:
            ConfigError: None.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self.gpus:  # one that shares a GPU has its share of a single one
            room = sum(int(there.get("GPU", 0)) * int(1 / self.gpus + 1e-9) for there in nodes)
            wanted = f"{self.gpus:g} GPU"
        else:
            room = sum(int(there.get("CPU", 0)) // self.threads for there in nodes)
            wanted = f"{self.threads} CPU"
        if room == 0:
            raise ConfigError(
                f"workers: no node of the Ray cluster has {wanted} for a worker; lower "
                "engine.threads, or add nodes"
            )
        return room


def needs_of(device: str, threads: int | None, share: float) -> Needs:
    """What each worker asks for, on the cluster that was joined.

    Args:
        device: What the config asks for.
        threads: CPU threads of each worker; one if the config does not say.
        share: Of a GPU for each, where there are any.

    Raises:
        ConfigError: The cluster has no such device, or it is one of a single machine.
    """
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
        # rounded down, so that as many share a GPU as its owner meant
        return Needs("cuda", threads or 1, int(share / FINEST_SHARE + 1e-6) * FINEST_SHARE)
    return Needs("cpu", threads or 1, 0.0)


def join(address: str) -> bool:
    """Join a cluster, unless this process has joined one already; whether it was done here.

    Raises:
        ConfigError: The address is none, or there is no cluster of our version.
    """
    where = ADDRESS
    _refuse_no_address(address, where)
    if ray.is_initialized():
        return False
    named = os.environ.get("RAY_ADDRESS")
    if address == "auto" and named:  # as Ray reads it
        where, address = f"RAY_ADDRESS (read for {ADDRESS}: auto)", named
        _refuse_no_address(address, where)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports nothing
    if address != "local":
        _try_out(address, where)
    _joined(address, where)
    return True


def in_short(error: BaseException) -> str:
    """The line of what Ray says that tells why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Version mismatch"):
        return " ".join(lines)
    causes = [line for line in lines if line.startswith("The actor ") and " because " in line]
    told = next(iter(causes or lines), type(error).__name__)
    return told[:_LONGEST].rstrip(".: ")


def _refuse_no_address(address: str, where: str) -> None:
    if problems := address_problems(address, where):
        raise ConfigError(problems)


def _joined(address: str, where: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # noqa: BLE001  # Ray has no kind of its own for all of these
        reason = in_short(error)
        advice = "start one with 'ray start --head', or say address: local"
        if reason.startswith("Version mismatch"):
            advice = "give every machine the same versions"
        raise ConfigError(
            f"{where}: no Ray cluster could be joined at {address} ({reason}); {advice}"
        ) from None


@functools.cache  # what is joined again and again was there a moment ago
def _try_out(address: str, where: str) -> None:
    """Join a cluster in another process, which may be ended when it takes too long."""
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


def _tried_out(address: str, where: str, limit: str) -> None:
    """Join and leave, or tell why not."""
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
        _tried_out(*sys.argv[1:])
    except ConfigError as told:
        sys.stdout.write(str(told))
        raise SystemExit(2) from None
