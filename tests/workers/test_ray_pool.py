"""A real Ray cluster of two nodes on this machine, whose workers and nodes are killed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scorers import (
    ALWAYS,
    BUG,
    DEVICE_ONCE,
    MEET,
    ONCE,
    RAYLET,
    SEGFAULT,
    Note,
    Wayward,
    WaywardRecipe,
    answer,
    eleven_jobs,
    failures_of,
    job,
)

from gptailor.errors import ConfigError, FamilyError

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
    from gptailor.workers.ray_pool import RayPool

    made = []

    def make(failure: str = "", device: str = "auto", **options: Any) -> Any:
        recipe = WaywardRecipe(tmp_path, failure=failure, device=device)
        options = {"address": cluster.address} | options
        made.append(RayPool(Wayward(tmp_path), recipe=lambda: recipe, **options))
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
    with pytest.raises(ray.exceptions.RayTaskError, match="a fault of ours"):
        list(pool(n_workers=1).evaluate([job(1, BUG)]))
    with pytest.raises(FamilyError) as caught:
        list(pool(n_workers=1, failure="refused").evaluate([job(1)]))
    assert caught.value.faults == ("one fault", "another")


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
        ({"address": 6379}, "must be auto, local, or the host:port"),
        ({"n_workers": 0}, "n_workers: must be a whole number of 1 or more"),
        ({"group_size": "many"}, "group_size: must be a whole number"),
        ({"devices_per_worker": 2}, "devices_per_worker: must be 1, a fraction"),
        ({"devices_per_worker": True}, "devices_per_worker: must be 1, a fraction"),
    ],
)
def test_an_option_at_fault_is_told_before_anything_is_joined(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    from gptailor.workers.ray_pool import RayPool

    recipe = WaywardRecipe(tmp_path)
    with pytest.raises(ConfigError, match=told):
        RayPool(Wayward(tmp_path), recipe=lambda: recipe, **options)
    assert not ray.is_initialized()


def test_the_environments_address_is_held_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptailor.workers.ray_pool import RayPool

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    recipe = WaywardRecipe(tmp_path)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 can't be reached"):
        RayPool(Wayward(tmp_path), recipe=lambda: recipe)


@pytest.mark.parametrize(
    ("device", "told"),
    [("cuda", "no node has a GPU"), ("cuda:1", "a device of one machine"), ("mps", "one machine")],
)
def test_a_device_that_the_cluster_lacks_is_told(pool: Make, device: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        pool(device=device)
    assert not ray.is_initialized()


def test_a_worker_that_no_node_holds_is_told(cluster: Any, tmp_path: Path) -> None:
    from gptailor.workers.ray_pool import RayPool

    recipe = WaywardRecipe(tmp_path, threads=64)
    with pytest.raises(ConfigError, match="no node of the Ray cluster has 64 CPU"):
        RayPool(Wayward(tmp_path), recipe=lambda: recipe, address=cluster.address)


def test_a_process_that_has_joined_already_stays_joined(
    cluster: Any, pool: Make, tmp_path: Path
) -> None:
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        one = pool(n_workers=1, address="auto")
        assert list(one.evaluate([job(1, ALWAYS - 50)])) == [answer(job(1, ALWAYS - 50))]
        one.close()
        assert ray.is_initialized()
    finally:
        ray.shutdown()
