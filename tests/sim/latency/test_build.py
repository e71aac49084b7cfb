"""Making tables and profiles."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencake.sim.latency import build
from tokencake.sim.latency.build import SYSTEMS, build_profile, build_table
from tokencake.sim.latency.fit import geometric, monotone_curve, monotone_grid
from tokencake.sim.latency.profiles import PROFILE_DIR, ProfileError, load_profile
from tokencake.sim.latency.table import LatencyTable

LLAMA = PROFILE_DIR / "models" / "llama-3-8b"


def no_kernels(*args: object) -> LatencyTable:
    raise ModuleNotFoundError("aiconfigurator_core")


def config(folder: Path, **changes: object) -> Path:
    data = json.loads((LLAMA / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return folder


def test_a_curve_follows_a_staircase():
    curve = monotone_curve(lambda x: 1.0 + (x > 100), 256, 0.01)
    assert [curve.ps(x) for x in (1, 100, 101, 256)] == [10**9, 10**9, 2 * 10**9, 2 * 10**9]
    assert len(curve.xs) < 30


@given(st.lists(st.lists(st.floats(0.001, 1e4), min_size=3, max_size=3), min_size=2, max_size=6))
def test_noise_becomes_monotone(values):
    rows = list(range(1, len(values) + 1))
    grid = monotone_grid(lambda row, context: values[row - 1][context], rows, [0, 1, 2])  # refuses what decreases
    highest = max(max(row) for row in values)
    assert all(0 <= ns <= highest * 1e6 + 1 for row in grid.ns for ns in row)


def test_a_monotone_grid_is_kept():
    grid = monotone_grid(lambda row, context: row + context / 4, [1, 2], [0, 4])
    assert grid.ns == ((1_000_000, 2_000_000), (2_000_000, 3_000_000))


def test_geometric_axis():
    assert geometric(256, 1000, 1) == [256, 512, 1000]


def test_a_profile_without_measured_kernels(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(build, "build_table", no_kernels)
    out = tmp_path / "new" / "mine.yaml"
    profile = build_profile(LLAMA, "h200_sxm", out)
    assert profile == load_profile(out)
    assert (profile.latency.kind, profile.model.kv_bytes_per_token) == ("roofline", 131_072)
    assert [path.name for path in out.parent.iterdir()] == ["mine.yaml"]
    with pytest.raises(ProfileError, match=r"exists; .* replace it with --overwrite"):
        build_profile(LLAMA, "h200_sxm", out)
    assert build_profile(LLAMA, "h200_sxm", out, overwrite=True) == profile


def test_a_profile_with_measured_kernels(tmp_path: Path, monkeypatch):
    table = LatencyTable.read(PROFILE_DIR / "tables" / "h200-sxm-llama-3-8b.json")
    monkeypatch.setattr(build, "build_table", lambda *args: table)
    profile = build_profile(LLAMA, "h200_sxm", tmp_path / "mine.yaml")
    assert profile.latency.file == tmp_path / "mine.table.json"
    assert LatencyTable.read(profile.latency.file) == table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 8}, "only dense full-attention models are supported"),
        ({"use_sliding_window": True}, "only dense full-attention models are supported"),
        ({"sliding_window": 4096}, "only dense full-attention models are supported, got sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "only dense full-attention .* got layer_types"),
        ({"kv_lora_rank": 512}, "only dense full-attention models are supported, got kv_lora_rank"),
        ({"mamba_d_state": 16}, "only dense full-attention models are supported, got mamba_d_state"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be absent"),
        ({"hidden_size": None}, "hidden_size is missing"),
        (
            {"layer_types": "full_attention"},
            "layer_types must be a list with a kind for each layer, got 'full_attention'",
        ),
        ({"layer_types": {"0": "full_attention"}}, "layer_types must be a list with a kind for each layer, got {"),
        ({"num_hidden_layers": 0}, "layers must be > 0, got 0"),
        ({"vocab_size": "big"}, "vocab_size must be a whole number, got 'big'"),
    ],
)
def test_an_unusable_config_is_refused(tmp_path: Path, changes, message):
    with pytest.raises(ProfileError, match=f"config.json: {message}"):
        build_profile(config(tmp_path, **changes), "a100_sxm", tmp_path / "mine.yaml")
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28},
        {"layer_types": ["full_attention"] * 32},
        {"_name_or_path": 7},
    ],
    ids=repr,
)
def test_a_config_that_says_more_than_it_need_is_accepted(tmp_path: Path, monkeypatch, changes):
    monkeypatch.setattr(build, "build_table", no_kernels)
    assert build_profile(config(tmp_path, **changes), "h200_sxm", tmp_path / "mine.yaml").model.layers == 32


def test_a_config_that_is_no_object_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ProfileError, match=r"config\.json: must be a JSON object, got list"):
        build_profile(tmp_path, "a100_sxm", tmp_path / "mine.yaml")


def test_a_place_that_cannot_be_written_is_found_out_before_the_table_is_made(tmp_path: Path, monkeypatch):
    def made(*args: object) -> LatencyTable:
        raise AssertionError("the table was made")

    monkeypatch.setattr(build, "build_table", made)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.yaml").mkdir()
    for out, rule in (("file/mine.yaml", "is not a writable directory"), ("folder.yaml", "is a directory")):
        with pytest.raises(ProfileError, match=rule):
            build_profile(LLAMA, "h200_sxm", tmp_path / out, overwrite=True)


def test_a_profile_and_its_table_are_replaced_together_or_not_at_all(tmp_path: Path, monkeypatch):
    table = LatencyTable.read(PROFILE_DIR / "tables" / "h200-sxm-llama-3-8b.json")
    monkeypatch.setattr(build, "build_table", lambda *args: table)
    build_profile(LLAMA, "h200_sxm", tmp_path / "mine.yaml")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ProfileError, match="No space left on device"):
        build_profile(LLAMA, "h200_sxm", tmp_path / "mine.yaml", max_model_len=1000, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_that_does_not_fit_leaves_no_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(build, "build_table", no_kernels)
    folder = config(tmp_path, num_hidden_layers=200)
    with pytest.raises(ProfileError, match="max_model_len must fit the KV memory: 8192 tokens asked for, 0 fit"):
        build_profile(folder, "a100_sxm", tmp_path / "mine.yaml")
    assert not (tmp_path / "mine.yaml").exists()
    folder = config(tmp_path, max_position_embeddings=10_000_000)
    shorter = build_profile(folder, "a100_sxm", tmp_path / "mine.yaml", max_model_len=1000)
    assert shorter.engine.max_model_len == 1000


def test_wrong_arguments(tmp_path: Path):
    with pytest.raises(ProfileError, match=r"unknown system 'h100'; did you mean 'h100_sxm'\?"):
        build_profile(LLAMA, "h100", tmp_path / "mine.yaml")
    with pytest.raises(ProfileError, match=r"out must end in .yaml"):
        build_profile(LLAMA, "h100_sxm", tmp_path / "mine.txt")
    with pytest.raises(ProfileError, match="cannot read the model's config: No such file"):
        build_profile(tmp_path / "none", "h100_sxm", tmp_path / "mine.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_shipped_tables_can_be_made_again(system):
    pytest.importorskip("aiconfigurator_core")
    shipped = LatencyTable.read(PROFILE_DIR / "tables" / f"{system.replace('_', '-')}-llama-3-8b.json")
    table = build_table(LLAMA, system)
    if table.source["tool_version"] != shipped.source["tool_version"]:
        pytest.skip(f"tables were made with {shipped.source['tool_version']}")
    assert table == shipped
