"""A real Ray cluster of two nodes on this machine, whose workers and nodes are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scorers import (
    DEVICE_ONCE,
    MEET,
    ONCE,
    RAYLET,
    SEGFAULT,
    UNSENDABLE,
    Note,
    Wayward,
    WaywardFactory,
    answer,
    eleven_jobs,
    failures_of,
    job,
)

from gptailor.core.plugins import WORKERS
from gptailor.errors import ConfigError, FamilyError, RecordError
from gptailor.workers.pool import WorkerSetup

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

# a lost node is noticed in a second, not in fifteen
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and one more node, one core each; nodes that are lost are put back by the tests."""
    patch = pytest.MonkeyPatch()
    here = str(Path(__file__).parent)
    patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {**NODE, "include_dashboard": False, "_system_config": QUICK}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    made.add_node(**NODE)
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


@pytest.fixture
def pool(cluster: Any, tmp_path: Path) -> Iterator[Make]:
    """Factory: a pool on the cluster with wayward scorers; closed at the end."""
    from gptailor.workers.ray.ray_pool import ray_pool

    made = []

    def make(failure: str = "", device: str = "auto", **options: Any) -> Any:
        factory = WaywardFactory(tmp_path, failure=failure, device=device)
        options = {"address": cluster.address} | options
        made.append(ray_pool(Wayward(tmp_path), get_factory=lambda: factory, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_jobs_are_spread_over_the_nodes_by_workers_that_stay(pool: Make, tmp_path: Path) -> None:
    two, jobs = pool(), [job(number, MEET) for number in range(1, 12)]
    for _ in range(2):
        assert list(two.evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "start").count() == 2
    assert len(Note(tmp_path, "group").pids()) == 2
    assert str(os.getpid()) not in Note(tmp_path, "group").pids()
    assert Note(tmp_path, "threads1cpu").count() == 2


def test_workers_killed_by_what_they_score(pool: Make, tmp_path: Path) -> None:
    """One dies once of its job, one always: the first is scored, the second has failed."""
    jobs = eleven_jobs(ONCE, SEGFAULT)
    done = list(pool().evaluate(jobs))
    (failed,) = failures_of(done).items()
    assert failed[0] == 4
    assert failed[1].startswith("3 workers were lost while they ran it; the last: ")
    assert done[:4] + done[5:] == [answer(one) for one in jobs[:4] + jobs[5:]]
    assert Note(tmp_path, "death").count() >= 3


def test_a_device_that_fails_loses_its_worker(pool: Make, tmp_path: Path) -> None:
    jobs = [job(1), job(2, DEVICE_ONCE)]
    assert list(pool(n_workers=1).evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "death").count() == 1
    assert Note(tmp_path, "start").count() == 2


def test_faults_of_ours_and_of_the_user_are_raised(pool: Make) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*Unsendable: a error of ours"):
        list(pool(n_workers=1).evaluate([job(1, UNSENDABLE)]))
    with pytest.raises(FamilyError) as caught:
        list(pool(n_workers=1, failure="refused").evaluate([job(1)]))
    assert caught.value.problems == ("one error", "another")


def test_workers_end_when_the_process_that_searches_is_killed(
    cluster: Any, tmp_path: Path, scorers_path: None
) -> None:
    script = f"""
from pathlib import Path
from scorers import DRIVER, Note, Wayward, WaywardFactory, job
from gptailor.workers.ray.ray_pool import ray_pool
folder = Path({str(tmp_path)!r})
Note(folder, "driver").add()
factory = WaywardFactory(folder)
pool = ray_pool(
    Wayward(folder), get_factory=lambda: factory, address={cluster.address!r}, n_workers=1
)
list(pool.evaluate([job(1, DRIVER)]))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (pid,) = Note(tmp_path, "death").pids()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "it still runs"
        os.sched_yield()


def test_a_node_that_is_lost_in_the_middle_is_survived_and_a_new_one_helps(
    cluster: Any, pool: Make, tmp_path: Path
) -> None:
    head, lost = cluster.head_node, next(iter(cluster.worker_nodes))
    (raylet,) = head.all_processes["raylet"]
    (tmp_path / f"head-0-{raylet.process.pid}").touch()
    two = pool(n_workers=2)
    meeting, jobs = ([job(n, how) for n in range(1, 12)] for how in (MEET, RAYLET))
    assert list(two.evaluate(meeting)) == [answer(one) for one in meeting]
    assert list(two.evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "death").count() == 1
    assert [node["NodeID"] for node in ray.nodes() if node["Alive"]] == [head.node_id]
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(**NODE)
    before = Note(tmp_path, "start").count()
    assert list(two.evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "start").count() <= before + 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"address": "127.0.0.1:1"}, r"127\.0\.0\.1:1 can't be reached"),
        ({"address": "nowhere"}, "must be auto, local, or the host:port"),
        ({"address": "ray://head:10001"}, "must be auto, local, or the host:port"),
        ({"devices_per_worker": 0.00001}, "devices_per_worker: must be 0 or 0.0001 to 1"),
    ],
)
def test_an_option_at_fault_is_told_in_a_sentence(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    from gptailor.workers.ray.ray_pool import ray_pool

    factory = WaywardFactory(tmp_path)
    with pytest.raises(ConfigError, match=told):
        ray_pool(Wayward(tmp_path), get_factory=lambda: factory, **options)
    assert not ray.is_initialized()


def test_all_options_at_fault_are_told_at_once_before_anything_is_joined() -> None:
    options = {"address": 6379, "n_workers": 0, "devices_per_worker": 2, "group_size": "many"}
    assert [
        problem.removeprefix("workers.options.") for problem in (WORKERS.problems("ray", options))
    ] == [
        "address: must be text, not 6379",
        "n_workers: must be a whole number of 1 or more, not 0",
        "devices_per_worker: must be a number from 0 to 1, not 2",
        "group_size: must be a whole number of 1 or more, not 'many'",
    ]
    assert WORKERS.problems("ray", {"devices_per_worker": True})
    assert not ray.is_initialized()


def test_a_port_that_is_not_a_clusters_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptailor.workers.ray import cluster as ray_cluster
    from gptailor.workers.ray.ray_pool import ray_pool

    monkeypatch.setattr(ray_cluster, "_JOIN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls, says nothing
        address = f"127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ConfigError, match=f"{address} did not answer as a Ray cluster within"):
            ray_pool(
                Wayward(tmp_path), get_factory=lambda: WaywardFactory(tmp_path), address=address
            )
        assert time.monotonic() - started < 20


def test_a_cluster_of_another_version_is_told(pool: Make, cluster: Any, tmp_path: Path) -> None:
    from ray._common.usage import usage_constants
    from ray._private import ray_constants

    from gptailor.workers.ray import cluster as ray_cluster

    client = ray._raylet.GcsClient(address=cluster.address)
    where = (usage_constants.CLUSTER_METADATA_KEY, ray_constants.KV_NAMESPACE_CLUSTER)
    known = client.internal_kv_get(where[0], namespace=where[1])
    other = json.dumps(json.loads(known) | {"ray_version": "2.9.3"}).encode()
    ray_cluster._try.cache_clear()
    try:
        client.internal_kv_put(where[0], other, True, where[1])
        with pytest.raises(ConfigError, match=r"Ray: 2\.9\.3 .*; give every machine the same vers"):
            pool()
    finally:
        client.internal_kv_put(where[0], known, True, where[1])


def test_gpus_are_shared_out_whole_and_in_parts(cluster: Any, pool: Make, tmp_path: Path) -> None:
    """The GPUs are Ray's word for it: nothing here touches one."""
    from gptailor.workers.ray.cluster import needs_of

    node = cluster.add_node(**{**NODE, "num_cpus": 0, "num_gpus": 2})
    try:
        four, jobs = pool(devices_per_worker=0.5), [job(1, MEET), job(2, MEET)]
        assert four.setup == WorkerSetup(4, "cuda", 1)
        asked = {share: needs_of("auto", None, share) for share in (1, 0.4, 0.3, 0)}
        assert {share: (needs.device, needs.room()) for share, needs in asked.items()} == {
            1: ("cuda", 2),
            0.4: ("cuda", 4),  # two on each, not five on both
            0.3: ("cuda", 6),
            0: ("cpu", 2),
        }
        assert list(four.evaluate(jobs)) == [answer(one) for one in jobs]
        assert Note(tmp_path, "threads1cuda").count() == 2
    finally:
        cluster.remove_node(node)


def test_a_cluster_that_never_has_room_is_not_waited_for_for_ever(
    cluster: Any, pool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptailor.workers.ray import ray_pool
    from gptailor.workers.ray.cluster import Needs

    monkeypatch.setattr(ray_pool, "_PATIENCE_S", 0.2)
    pool(n_workers=1)  # joins
    backend = ray_pool.RayBackend(WaywardFactory(tmp_path), Needs("cpu", 64, 0.0), 1)
    backend.start(0)
    with pytest.raises(RecordError, match="no node of the Ray cluster has had room for a worker"):
        backend.wait()
    backend.stop(0)


def test_the_environments_address_is_held_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptailor.workers.ray.ray_pool import ray_pool

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    factory = WaywardFactory(tmp_path)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 can't be reached"):
        ray_pool(Wayward(tmp_path), get_factory=lambda: factory)


@pytest.mark.parametrize(
    ("device", "told"),
    [("cuda", "no node has a GPU"), ("cuda:1", "a device of one machine"), ("mps", "one machine")],
)
def test_a_device_that_the_cluster_lacks_is_told(pool: Make, device: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        pool(device=device)
    assert not ray.is_initialized()


def test_a_worker_that_no_node_holds_is_told(cluster: Any, tmp_path: Path) -> None:
    from gptailor.workers.ray.ray_pool import ray_pool

    factory = WaywardFactory(tmp_path, threads=64)
    with pytest.raises(ConfigError, match="no node of the Ray cluster has 64 CPU"):
        ray_pool(
            Wayward(tmp_path), get_factory=lambda: factory, address=cluster.address, n_workers=1
        )


def test_a_process_that_has_joined_already_stays_joined(
    cluster: Any, pool: Make, tmp_path: Path
) -> None:
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        one = pool(n_workers=1, address="auto")
        assert list(one.evaluate([job(1)])) == [answer(job(1))]
        one.close()
        assert ray.is_initialized()
    finally:
        ray.shutdown()
