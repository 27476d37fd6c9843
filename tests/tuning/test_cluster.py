"""Room for trials on a cluster, and what becomes of the places of trials that have ended."""

import importlib
import re

import pytest
from ray.exceptions import AuthenticationError

from gcsearch.config import Document
from gcsearch.config.build import build_settings
from gcsearch.errors import ConfigError
from gcsearch.tuning import cluster, head
from gcsearch.tuning.cluster import TRIAL_CPUS, Places, check_address, concurrency, ray_cluster, worker_bundle
from gcsearch.tuning.settings import Resources

ROOM = [
    ({}, [{"CPU": 2.0}], 2),
    ({"cpus_per_worker": 2}, [{"CPU": 7.0}], 3),
    ({"gpus_per_worker": 0.5}, [{"CPU": 16.0, "GPU": 1.0}], 2),
    ({"gpus_per_worker": 0.1}, [{"CPU": 16.0, "GPU": 1.0}], 10),
    ({"gpus_per_worker": 0.4}, [{"CPU": 16.0, "GPU": 2.0}], 4),  # two on each GPU; the rest of it serves nobody
    ({"gpus_per_worker": 1}, [{"CPU": 2.0, "GPU": 8.0}], 2),
    ({"gpus_per_worker": 2}, [{"CPU": 9.0, "GPU": 3.0}, {"CPU": 9.0, "GPU": 5.0}], 3),
    ({"concurrent": 1}, [{"CPU": 4.0}], 1),
    ({"concurrent": 3}, [{"CPU": 4.0}], 3),
    ({"concurrent": 100}, [{"CPU": 4.0}], 4),
    ({"workers": 2}, [{"CPU": 2.0}], 1),
    ({"workers": 2}, [{"CPU": 3.0}, {"CPU": 3.0}], 3),  # one trial has a worker on each node
    ({"workers": 2, "cpus_per_worker": 2}, [{"CPU": 3.0}, {"CPU": 3.0}], 1),
    ({"workers": 4, "gpus_per_worker": 1}, [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 64.0}], 2),
    ({"workers": 4, "concurrent": 1}, [{"CPU": 8.0}], 1),
]


@pytest.mark.parametrize(("resources", "nodes", "wanted"), ROOM)
def test_as_many_trials_run_as_fit_and_as_are_wanted(resources, nodes, wanted):
    assert concurrency(Resources(**resources), nodes) == wanted


@pytest.mark.parametrize(("resources", "nodes", "wanted"), ROOM)
def test_what_trials_and_their_workers_reserve_fits_into_the_cores(resources, nodes, wanted):
    asked = Resources(**resources)
    bundle = worker_bundle(asked.cpus_per_worker, asked.gpus_per_worker)
    reserved = wanted * (TRIAL_CPUS + asked.workers * bundle["CPU"])
    assert reserved <= sum(node["CPU"] for node in nodes) + 1e-9
    assert ("GPU" in bundle) == (asked.gpus_per_worker > 0)


@pytest.mark.parametrize(
    ("resources", "nodes", "words"),
    [
        ({"cpus_per_worker": 4}, [{"CPU": 2.0}], "of one worker .* needs 4 CPU, and the nodes have 2 CPU, 0 GPU"),
        ({"gpus_per_worker": 1}, [{"CPU": 2.0}], "needs 1 CPU and 1 GPU, and the nodes have 2 CPU, 0 GPU"),
        ({"gpus_per_worker": 2, "concurrent": 1}, [{"CPU": 2.0, "GPU": 1.0}], "2 GPU, and the nodes have 2 CPU, 1 GPU"),
        ({"workers": 3}, [{"CPU": 1.0}, {"CPU": 1.0}], "of 3 workers .* 1 CPU, 0 GPU; 1 CPU, 0 GPU. Use fewer workers"),
    ],
)
def test_a_trial_that_can_never_be_placed_is_an_error_and_not_a_wait(resources, nodes, words):
    with pytest.raises(ConfigError, match=words):
        concurrency(Resources(**resources), nodes)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker must be a whole number, or between 0 and 1, got 1.5"),
        ({"gpus_per_worker": -1}, "gpus_per_worker must be a whole number, or between 0 and 1, got -1"),
        ({"workers": 2, "gpus_per_worker": 0.5}, "gpus_per_worker must be a whole number with 2 workers, got 0.5"),
        ({"max_failures": -1}, "max_failures must be >= 0, got -1"),
    ],
)
def test_resources_that_cannot_be_had_are_refused(resources, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        build_settings(Resources, resources, Document({}))


def test_places_of_ended_trials_are_waited_for_and_taken_away_if_they_stay(monkeypatch):
    table = {"a": {"state": "CREATED"}, "b": {"state": "CREATED"}}
    taken, now = [], [0.0]
    module = importlib.import_module("ray.util.placement_group")  # by its path, it is a function
    monkeypatch.setattr(module, "placement_group_table", lambda: table)
    monkeypatch.setattr(cluster, "_take_away", taken.append)
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    places = Places()
    assert places.are_free()
    places.take("0000", "a")
    places.take("0001", "b")
    assert places.are_free(), "both trials still run"
    places.leave("0000")
    places.leave("0000")
    places.leave("0007")
    assert not places.are_free()
    table["a"]["state"] = "REMOVED"
    assert places.are_free()
    places.leave("0001")
    assert not places.are_free()
    now[0] = cluster.LEAVE_TIMEOUT_S + 1
    assert not places.are_free()
    assert taken == ["b"]
    del table["b"]
    assert places.are_free()


def test_an_address_of_ray_client_is_refused_where_a_node_is_needed():
    check_address(None)
    check_address("auto")
    check_address("10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"got ray://head:10001. Only `gcsearch run` and `gcsearch ablate`"):
        check_address("ray://head:10001")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            AuthenticationError("no token was found. And more"),
            "token must be known here. Ray says: no token was found. The",
        ),
        (ConnectionError("cannot connect.\nmore"), r"no Ray cluster answers there \(cannot connect\). Start one"),
    ],
)
def test_a_cluster_that_refuses_us_is_an_error_that_names_the_token(monkeypatch, error, words):
    import ray

    def refuse(**_):
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError, match=words) as raised, ray_cluster("auto"):
        raise AssertionError
    assert "RAY_AUTH_TOKEN_PATH" in str(raised.value)


def test_a_head_that_did_not_start_a_client_s_process_is_asked_again(monkeypatch):
    import ray

    calls = []

    def init(**_):
        calls.append(len(calls))
        if len(calls) <= failures:
            raise RuntimeError(f"Initialization failure from server:\nRuntimeError: {message}. See the logs.")

    monkeypatch.setattr(ray, "init", init)
    message, failures = head.NOT_STARTED, 2
    head._connect("ray://head:10001")
    assert len(calls) == 3
    for message, tries in ((head.NOT_STARTED, 3), ("no token", 1)):
        calls, failures = [], 9
        with pytest.raises(ConfigError, match=rf"--address ray://head:10001: .*from server: RuntimeError: {message}"):
            head._connect("ray://head:10001")
        assert len(calls) == tries
