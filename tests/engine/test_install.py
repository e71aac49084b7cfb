"""What is used of vLLM has the signatures that the hosts were written for; where vLLM is not, one line says so."""

import inspect

import pytest

from tokencake.engine import install
from tokencake.experiments.cli import main

needs_vllm = pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))


def used():
    """``(owner, method, parameters that are passed or overridden)``."""
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading import scheduler as offloading
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.request_queue import RequestQueue
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

    connector = offloading.OffloadingConnectorScheduler
    return [
        (Scheduler, "schedule", "throttle_prefills"),
        (Scheduler, "update_from_output", "scheduler_output model_runner_output"),
        (Scheduler, "_preempt_request", "request timestamp drop_stale_output"),
        (Scheduler, "_connector_finished", "request"),
        (Scheduler, "_free_request_blocks", "request"),
        (Scheduler, "_drain_deferred_frees", ""),
        (Scheduler, "_update_after_schedule", "scheduler_output"),
        (Scheduler, "_build_kv_connector_meta", "connector scheduler_output"),
        (Scheduler, "_update_from_kv_xfer_finished", "kv_connector_output"),
        (Scheduler, "_inflight_prefill_reserved_blocks", ""),
        (KVCacheManager, "get_blocks", "request_id"),
        (KVCacheManager, "pop_blocks_for_free", "request"),
        (BlockPool, "get_new_blocks", "num_blocks"),
        (BlockPool, "touch", "blocks"),
        (BlockPool, "free_blocks", "ordered_blocks"),
        (BlockPool, "get_cached_block", "block_hash kv_cache_group_ids"),
        (BlockPool, "_maybe_evict_cached_block", "block"),
        (BlockPool, "_notify_reuse", "blocks"),
        (RequestQueue, "peek_request", ""),
        (RequestQueue, "pop_request", ""),
        (RequestQueue, "prepend_request", "request"),
        (RequestQueue, "prepend_requests", "requests"),
        (connector, "get_num_new_matched_tokens", "request num_computed_tokens max_num_new_tokens"),
        (connector, "build_connector_meta", "scheduler_output"),
        (connector, "_calc_num_offloadable_tokens", "req_status num_computed_tokens"),
        (CPUOffloadingManager, "prepare_store", "keys req_context"),
        (CPUOffloadingManager, "complete_store", "keys req_context success"),
        (CPUOffloadingManager, "prepare_load", "keys req_context"),
        (CPUOffloadingManager, "complete_load", "keys req_context"),
    ]


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_signatures_are_those_of_the_tested_version():
    for owner, name, parameters in used():
        found = list(inspect.signature(getattr(owner, name)).parameters)
        assert found == ["self", *parameters.split()], f"{owner.__name__}.{name}"


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_slots_are_asked_for_by_the_names_that_are_read():
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    slots = inspect.signature(KVCacheManager.allocate_slots).parameters
    assert {"new_computed_blocks", "num_external_computed_tokens"} <= set(slots)
    assert list(slots)[:3] == ["self", "request", "num_new_tokens"]
    hashed = list(inspect.signature(BlockPool.cache_full_blocks).parameters)
    assert hashed[1:7] == [
        "request",
        "blocks",
        "num_cached_blocks",
        "num_full_blocks",
        "block_size",
        "kv_cache_group_id",
    ]


@pytest.mark.parametrize(("version", "said"), [(None, "not installed"), ("0.33.1", "not a tested version")])
def test_no_usable_vllm_is_one_line_with_the_command(version, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None if version is None else object())
    monkeypatch.setattr(install, "installed", lambda: version)
    out = tmp_path / "run"
    assert main(["run", "host=virtual", "+experiment=tiny", "trace=demo", f"out={out}"]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "make engine" in shown
    assert shown.count("\n") == 1
    assert not out.exists()
