"""Profiles: the shipped ones load and say what was measured; a bad one gets one clear line."""

from pathlib import Path

import pytest
import yaml

from tokencake.sim.latency.profiles import PROFILE_DIR, ProfileError, load_profile, profile_names

MINE = {
    "description": "mine",
    "model": {
        "name": "m", "layers": 2, "hidden": 8, "heads": 2, "kv_heads": 1, "head_dim": 4,
        "intermediate": 16, "vocab": 32,
    },
    "gpu": {"name": "g", "memory_gib": 8, "peak_tflops": 1, "hbm_gb_s": 100},
    "engine": {"max_model_len": 64, "gpu_blocks": 10},
    "link": {"d2h_gb_s": 1, "h2d_gb_s": 1},
    "latency": {"kind": "linear", "params": {"constant_us": 5}},
}  # fmt: skip


def write(folder: Path, section: str | None = None, **changes: object) -> Path:
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in MINE.items()}
    target = data if section is None else data[section]
    for key, value in changes.items():
        if value is None:
            del target[key]
        else:
            target[key] = value
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_loads_and_steps(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    model = profile.latency_model()
    one, eight = model.decode_ps(1, 1000), model.decode_ps(8, 8000)
    assert 0 < one <= eight < model.prefill_ps(2048, 1000)
    if profile.latency.file is not None:
        assert profile.latency.file.stat().st_size < 100_000


def test_tables_and_profiles_use_each_other():
    used = {load_profile(name).latency.file for name in profile_names()} - {None}
    assert used == set((PROFILE_DIR / "tables").glob("*.json"))


def test_the_measured_a800():
    profile = load_profile("a800-qwen2.5-14b")
    assert (profile.gpu_blocks, profile.engine.max_num_batched_tokens, profile.block_bytes) == (3050, 8192, 3_145_728)
    model = profile.latency_model()
    assert 25e9 < model.decode_ps(8, 80_000) < 32e9  # ps
    assert 0.95e12 < model.prefill_ps(8192, 0) < 1.3e12


def test_the_tiny_cpu():
    profile = load_profile("cpu-tiny")
    assert (profile.usable_blocks, profile.engine.block_size, profile.model.kv_bytes_per_token) == (119, 32, 4096)


def test_a_file_of_ones_own(tmp_path: Path):
    profile = load_profile(write(tmp_path))
    assert profile.name == "mine"
    assert profile.latency_model().step_ps([(1, 0)], 0, 0) == 5_000_000
    assert load_profile(str(tmp_path / "mine.yaml")) == profile


def test_blocks_are_derived_where_nobody_measured(tmp_path: Path):
    engine = {"max_model_len": 64}
    profile = load_profile(write(tmp_path, engine=engine))
    weights = 2 * (2 * (8 * 4 * 2 * 3 + 3 * 8 * 16) + 2 * 8 * 32)
    assert profile.gpu_blocks == int(((8 * 0.92 - 3.1) * 2**30 - weights) // (32 * 16))


@pytest.mark.parametrize("kind", ["roofline", "linear"])
def test_each_call_makes_a_fresh_model(tmp_path: Path, kind):
    latency = {"kind": kind} | ({"params": {"constant_us": 1}} if kind == "linear" else {})
    profile = load_profile(write(tmp_path, latency=latency))
    assert profile.latency_model() is not profile.latency_model()


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (None, {"colour": 1}, "colour: unknown key; known: "),
        (None, {"link": None}, "link: missing"),
        (None, {"model": [1]}, "model must be a mapping, got [1]"),
        ("model", {"kv_head": 1}, "model.kv_head: unknown key; did you mean 'kv_heads'?"),
        ("model", {"layers": None}, "model.layers: missing"),
        ("model", {"layers": 0}, "model.layers must be > 0, got 0"),
        ("model", {"layers": 1.5}, "model.layers: must be int, got 1.5"),
        ("model", {"layers": True}, "model.layers: must be int, got True"),
        ("gpu", {"memory_gib": "8"}, "gpu.memory_gib: must be float, got '8'"),
        ("gpu", {"memory_gib": float("inf")}, "gpu.memory_gib: must be finite, got inf"),
        ("engine", {"gpu_memory_utilization": 1.5}, "engine.gpu_memory_utilization must be in (0, 1], got 1.5"),
        (
            "engine",
            {"max_model_len": 145},
            "engine.max_model_len must fit the KV memory: 145 tokens asked for, 144 fit",
        ),
        ("link", {"d2h_gb_s": 0}, "link.d2h_gb_s must be > 0, got 0"),
        ("link", {"per_run_us": -1}, "link.per_run_us must be >= 0, got -1"),
        ("latency", {"kind": "tabel"}, "latency.kind: must be 'table' or 'linear' or 'roofline', got 'tabel'"),
        ("latency", {"kind": "table", "params": None}, "latency.file is missing: kind 'table' needs one"),
        ("latency", {"kind": "table"}, "latency.params is not for kind 'table'"),
        ("latency", {"params": None}, "latency.params is missing: kind 'linear' needs coefficients"),
        ("latency", {"params": {"constant_us": -1}}, "latency.params.constant_us must be >= 0, got -1"),
        ("latency", {"prefill_factor": 0}, "latency.prefill_factor must be > 0, got 0"),
        ("latency", {"kind": "table", "params": None, "file": "no.json"}, "latency.file: cannot read"),
    ],
)
def test_a_bad_profile_is_one_line(tmp_path: Path, section, changes, message):
    with pytest.raises(ProfileError) as caught:
        load_profile(write(tmp_path, section, **changes))
    text = str(caught.value)
    assert "mine.yaml: " in text
    assert message in text
    assert "\n" not in text


def test_without_a_gpu_blocks_must_be_stated(tmp_path: Path):
    with pytest.raises(ProfileError, match=r"engine.gpu_blocks is missing: without gpu it cannot be derived"):
        load_profile(write(tmp_path, gpu=None, engine={"max_model_len": 64}))
    with pytest.raises(ProfileError, match=r"gpu is missing: kind 'roofline' needs"):
        load_profile(write(tmp_path, gpu=None, latency={"kind": "roofline"}))


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(
        ProfileError, match=r"unknown hardware profile 'a800-qwen2.5-14'; did you mean 'a800-qwen2.5-14b'\?"
    ):
        load_profile("a800-qwen2.5-14")
    with pytest.raises(ProfileError, match=r"unknown hardware profile 'zzz'; all \d+: tokencake hardware"):
        load_profile("zzz")


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("5", "the profile must be a mapping, got 5")])
def test_a_file_that_is_no_profile(tmp_path: Path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        load_profile(path)
    with pytest.raises(ProfileError, match="cannot read the hardware profile: No such file"):
        load_profile(tmp_path / "none.yaml")
