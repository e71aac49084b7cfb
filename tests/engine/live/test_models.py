"""Models: the tiny ones are built from a seed, any other folder is described from its configuration."""

import json

import pytest

from tokencake.engine import install, models
from tokencake.engine.install import EngineStartError
from tokencake.engine.models import ModelError, find_model
from tokencake.engine.runtime import Runtime

LLAMA = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 100,
    "max_position_embeddings": 512, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    if install.missing():
        pytest.skip(install.missing())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tokencake" / "models"


def test_a_tiny_model_is_built_once_and_from_its_seed(cache):
    found = find_model("xs")
    assert found.folder.parent == cache
    assert found.shape == models.TINY["xs"]
    assert (found.dtype, found.shape.kv_bytes_per_token) == ("float32", 1024)
    assert not found.folder.exists(), "to know a model is not to build it"
    found.ensure()
    weights = found.folder / "model.safetensors"
    first, when = weights.read_bytes(), weights.stat().st_mtime_ns
    found.ensure()
    assert weights.stat().st_mtime_ns == when
    other = models.build("xs", seed=1)
    assert (other / "model.safetensors").read_bytes() != first
    weights.unlink()
    (found.folder / "config.json").unlink()
    found.folder.rmdir()
    assert (models.build("xs") / "model.safetensors").read_bytes() == first
    assert [p.name for p in cache.iterdir() if p.name.startswith(".")] == [], "nothing half-built is left"


def test_a_folder_is_described_from_its_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = find_model(str(tmp_path))
    assert (found.shape.kv_heads, found.shape.head_dim, found.shape.dtype_bytes) == (4, 16, 2)
    assert (found.dtype, found.max_len) == ("bfloat16", 512)
    assert find_model(str(tmp_path), dtype="float32").shape.kv_bytes_per_token == 2 * 2 * 4 * 16 * 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "config.json: hidden_size is missing"),
        ({"torch_dtype": "int4"}, "dtype must be one of"),
        ({"vocab_size": 0}, "config.json: vocab must be > 0"),
        ({"num_local_experts": 8}, "only dense full-attention models are supported, got num_local_experts"),
        ({"sliding_window": 128}, "only dense full-attention models are supported, got sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be absent"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, change, said):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | change))
    with pytest.raises(ModelError, match=said) as error:
        find_model(str(tmp_path))
    assert "\n" not in str(error.value)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(ModelError, match="neither one of xs, s, m nor a folder"):
        find_model("xl")


@pytest.mark.parametrize(
    ("error", "said"), [(AssertionError("shapes differ"), "shapes differ"), (AssertionError(), "AssertionError")]
)
def test_whatever_keeps_the_engine_from_starting_is_one_line(runtime, error, said, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Runtime, "_open", False)
    monkeypatch.setattr("vllm.v1.engine.core.EngineCore", fail)
    with pytest.raises(EngineStartError, match=f"vLLM does not start with .*: {said}$"):
        Runtime(find_model("xs"), runtime.limits)


def test_a_model_that_cannot_be_built_is_one_line(runtime, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(Runtime, "_open", False)
    with pytest.raises(EngineStartError, match=r"vLLM does not start with .*: .*Not a directory"):
        Runtime(find_model("xs"), runtime.limits)
