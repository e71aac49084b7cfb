import json
import re
import shutil

import pytest

from tokencake.experiments import tables
from tokencake.experiments.comparison import aggregate, collect, paired
from tokencake.experiments.errors import UsageError
from tokencake.experiments.labels import policy_labels
from tokencake.experiments.results import Run, find_runs


@pytest.fixture
def comparison(fake_sweep):
    return collect(find_runs([fake_sweep]))


def test_what_varies_is_found(comparison):
    assert comparison.keys == ("trace.qps",)
    assert comparison.load == "trace.qps"
    assert comparison.policies == ("vllm", "vllm-priority", "vllm-offload")


def test_aggregate_averages_over_seeds(comparison):
    table = aggregate(comparison)
    assert len(table) == 9
    assert (table["seeds"] == 4).all()
    assert (table["latency_mean_s_low"] < table["latency_mean_s"]).all()
    assert table["hit_share"].tolist() == [0.75] * 9


def test_paired_differences_are_against_the_first_policy(comparison):
    table = paired(comparison)
    assert set(table["baseline"]) == {"vllm"}
    assert len(table) == 2 * 3 * 3
    assert (table["seeds"] == 4).all()


def label(*policies):
    return policy_labels([{"name": name, **section} for name, section in policies])


def test_policies_are_called_by_what_tells_them_apart():
    custom = {"target": "mine:KeepShort", "info": None, "params": {"longest_s": 2.0, "other": 1}}
    assert label(("custom", custom)) == ["KeepShort"]
    longer = custom | {"params": {"longest_s": 3.0, "other": 1}}
    assert label(("vllm", {}), ("custom", custom), ("custom", longer)) == [
        "vllm",
        "KeepShort(longest_s=2)",
        "KeepShort(longest_s=3)",
    ]
    assert label(("custom", custom), ("custom", custom | {"target": "theirs:KeepShort"})) == [
        "mine:KeepShort",
        "theirs:KeepShort",
    ]
    assert label(("kvflow", {"info": None}), ("kvflow", {"info": "oracle"})) == ["kvflow", "kvflow(info=oracle)"]


def test_a_composed_policy_is_called_by_its_parts():
    parts = {"order": "autellix", "place": "mine:KeepShort", "store": None, "params": {"autellix": {"mode": "plas"}}}
    assert label(("compose", parts)) == ["compose(order=autellix, place=KeepShort)"]
    other = parts | {"params": {"autellix": {"mode": "atlas"}}}
    assert label(("compose", parts), ("compose", other), ("compose", {"order": "autellix"})) == [
        "compose(order=autellix, place=KeepShort, mode=plas)",
        "compose(order=autellix, place=KeepShort, mode=atlas)",
        "compose(order=autellix)",
    ]


SIZES = {"cpu-tiny": (119, 1024), "big": (3049, 8192)}


def engine(profile):
    blocks, budget = SIZES[profile]
    return {"gpu_blocks": blocks, "max_num_batched_tokens": budget}


@pytest.mark.parametrize("typed", [True, False])
def test_runs_on_two_machines_differ_in_the_machine(fake_run, typed):
    runs = []
    for profile in ("cpu-tiny", "big"):
        words = [f"hardware={profile}", "trace.qps=0.5"] if typed else None
        config = {"engine": engine(profile), "hardware": {"profile": profile}, "link": {"h2d_gb_s": SIZES[profile][0]}}
        runs.append(Run(fake_run(profile, overrides=words, **config)))
    comparison = collect(runs)
    assert comparison.keys == ("hardware",)
    assert comparison.load is None
    assert comparison.series == ("vllm, cpu-tiny", "vllm, big")


def test_what_was_typed_beside_a_machine_is_told(fake_run):
    config = {"engine": {"gpu_blocks": 500, "max_num_batched_tokens": 1024}, "hardware": {"profile": "cpu-tiny"}}
    words = ["hardware=cpu-tiny", "engine.gpu_blocks=500"]
    runs = [Run(fake_run("a", overrides=words, **config))]
    runs.append(Run(fake_run("b", overrides=[], engine=engine("big"), hardware={"profile": "big"})))
    assert collect(runs).series == ("vllm, cpu-tiny", "vllm, big")
    assert collect(runs).load == "engine.gpu_blocks"


def test_an_experiment_stands_for_what_it_sets(fake_run):
    profiles = {"tiny": "cpu-tiny", "official_matrix": "big"}
    runs = [
        Run(fake_run(name, overrides=[f"+experiment={name}"], engine=engine(p), hardware={"profile": p}))
        for name, p in profiles.items()
    ]
    assert collect(runs).series == ("vllm, tiny", "vllm, official_matrix")


def test_what_differs_without_being_typed_is_told_too(fake_run):
    runs = [
        Run(fake_run(name, overrides=["trace=demo"], workload={"client_delay_s": delay}))
        for name, delay in (("old", 0.0), ("new", 0.05))
    ]
    assert collect(runs).keys == ("workload.client_delay_s",)


def test_traces_are_called_by_what_tells_their_paths_apart(fake_run):
    sources = [
        {"source": "file", "path": "a/mine.jsonl.gz"},
        {"source": "file", "path": "b/mine.jsonl"},
        {"source": "demo", "rounds": 3},
    ]
    runs = [Run(fake_run(f"r{i}", overrides=None, trace=source)) for i, source in enumerate(sources)]
    comparison = collect(runs)
    assert comparison.keys == ("trace",)
    assert comparison.series == ("vllm, a/mine", "vllm, b/mine", "vllm, demo")


def test_a_run_given_twice_counts_once(fake_run, tmp_path):
    for seed in range(3):
        fake_run(f"sweep/s{seed}", seed=seed)
    shutil.copytree(tmp_path / "sweep" / "s1", tmp_path / "elsewhere")
    comparison = collect(find_runs([tmp_path / "sweep", tmp_path / "sweep" / "s0", tmp_path / "elsewhere"]))
    assert len(comparison.runs) == 3
    (note,) = comparison.notes
    assert note.startswith("counted once: ") and "s0" in note and "elsewhere" in note and "differ" not in note
    assert aggregate(comparison)["seeds"].tolist() == [3]


def test_a_copy_with_other_results_is_pointed_out(fake_run, tmp_path):
    runs = [Run(fake_run(name)) for name in "ab"]
    summary = runs[1].summary | {"preemptions": 5.0}
    (tmp_path / "b" / "summary.json").write_text(json.dumps(summary))
    assert "results differ" in collect([runs[0], Run(tmp_path / "b")]).notes[0]


def test_a_run_that_was_ended_early_is_left_out(fake_run, change_summary):
    runs = [Run(fake_run(f"r{seed}", seed=seed)) for seed in range(3)]
    change_summary(runs[1].path, interrupted=True)
    comparison = collect([Run(run.path) for run in runs])
    assert comparison.notes == (f"left out: {runs[1].path} was interrupted",)
    assert aggregate(comparison)["seeds"].tolist() == [2]
    with pytest.raises(UsageError, match=r"r1 was interrupted: no run that went to its end"):
        collect([Run(runs[1].path)])


def same_whatever_the_seed(fake_run, change_summary, name, policy, latency):
    spread = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), latency)
    keys = ("program_latency_s", "ttft_s", "queue_s", "prefill_s", "decode_s")
    paths = [fake_run(f"{name}-{seed}", policy, seed=seed) for seed in range(3)]
    return [Run(change_summary(path, makespan_s=latency, **dict.fromkeys(keys, spread))) for path in paths]


def test_equal_runs_of_several_seeds_are_one_sample(fake_run, change_summary):
    """As on recorded arrivals: the seed changes nothing, so the runs say nothing of scatter."""
    runs = same_whatever_the_seed(fake_run, change_summary, "a", "vllm", 100.0)
    runs += same_whatever_the_seed(fake_run, change_summary, "b", "mori", 90.0)
    comparison = collect(runs)
    table = aggregate(comparison)
    assert table["seeds"].tolist() == [1, 1]
    assert table["latency_mean_s"].tolist() == [100.0, 90.0]
    assert table["latency_mean_s_low"].isna().all()
    assert paired(comparison)["seeds"].tolist() == [1, 1, 1]
    text = tables.markdown(comparison)
    assert "Runs of vllm, mori are equal whatever the seed: they count as one." in text
    assert "over" not in text and "±" not in text.replace("Mean ±", "")
    assert "| mori | 90.0 | -10.0 |" in text


def test_a_policy_that_draws_is_paired_with_one_that_does_not(fake_run, change_summary):
    runs = same_whatever_the_seed(fake_run, change_summary, "a", "vllm", 100.0)
    runs += [Run(fake_run(f"b-{seed}", "random", seed=seed)) for seed in range(3)]
    comparison = collect(runs)
    assert aggregate(comparison)["seeds"].tolist() == [1, 3]
    differences = paired(comparison)
    assert differences["seeds"].tolist() == [3, 3, 3]
    assert (differences["low"] < differences["high"]).all()
    assert "over 1 to 3 seeds" in tables.caption(comparison)


def test_runs_of_one_seed_are_compared_without_an_interval(fake_run):
    text = tables.markdown(collect([Run(fake_run("a")), Run(fake_run("b", "vllm-offload"))]))
    head, _, first, second = (line.split(" | ") for line in text.splitlines()[:4])
    assert head[2] == "vs vllm (%)"
    assert first[2].strip() == "" and float(second[2]) < 0


@pytest.mark.parametrize(
    "which",
    [
        lambda i: {"live": {"repeat": i}},
        lambda i: {"hardware": {"draw": i}},
        lambda i: {"live": {"repeat": i // 2}, "hardware": {"draw": i % 2}},
    ],
    ids=["repeats", "draws", "draws of repeats"],
)
def test_repeats_of_a_measurement_and_draws_of_step_times_are_samples(fake_run, which):
    policies = ("vllm", "vllm-offload")
    comparison = collect([Run(fake_run(f"{name}{i}", name, **which(i))) for name in policies for i in range(4)])
    assert comparison.keys == () and not comparison.notes
    assert aggregate(comparison)["seeds"].tolist() == [4, 4]
    assert paired(comparison)["seeds"].tolist() == [4] * 3


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_is_never_cut(fake_run, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    long = {"order": "autellix", "place": "mine:KeepsEverythingForALongTime", "store": "vllm-offload"}
    config = {"name": "compose", **long}
    runs = [Run(fake_run("a")), Run(fake_run("b", policy_section=config))]
    comparison = collect(runs)
    tables.show(comparison)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    head, body, _ = tables.rows(comparison)
    for title in head:
        assert title.partition(" (")[0] in text
    assert all(cell in text for row in body for cell in row[2:])
    assert max(map(len, text.splitlines())) <= width


def test_one_run_has_no_interval_and_no_pairs(fake_run, tmp_path):
    comparison = collect([Run(fake_run("only"))])
    assert comparison.load is None
    assert "One seed each" in tables.markdown(comparison)
    assert [p.name for p in tables.save(comparison, tmp_path)] == ["table.csv", "table.md"]


def test_the_table_shows_every_policy_at_every_load(comparison, tmp_path, capsys):
    tables.show(comparison)
    text = capsys.readouterr().out
    assert text.count("vllm-offload") == 3
    assert "±" in text
    written = tables.save(comparison, tmp_path)
    assert [p.name for p in written] == ["table.csv", "table.md", "paired.csv"]
    assert len(written[0].read_text().splitlines()) == 10


def test_a_setting_that_some_runs_do_not_have_is_empty_there(fake_run):
    """Recorded arrivals have no rate: no `null` in a label and no `nan` in a table, and they are compared, too."""
    arrivals = {"recorded": {"arrivals": "trace", "qps": None}, "drawn": {"arrivals": "poisson", "qps": 2.0}}
    policies = ("vllm", "vllm-offload")
    runs = [Run(fake_run(f"{n}-{p}", p, trace=section)) for n, section in arrivals.items() for p in policies]
    comparison = collect(runs)
    assert comparison.series[0] == "vllm, arrivals=trace"
    assert comparison.series[2] == "vllm, arrivals=poisson, qps=2"
    head, body, _ = tables.rows(comparison)
    assert [row[:3] for row in body[::2]] == [["trace", "", "vllm"], ["poisson", "2", "vllm"]]
    assert [bool(row[head.index("vs vllm (%)")]) for row in body] == [False, True, False, True]
