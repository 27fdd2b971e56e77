"""LoRA saved alone and merged: both say the same, a run that trains it resumes, and bad files are one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ldis_jax import convert
from ldis_jax.errors import LDISError
from ldis_jax.models import LoRA
from ldis_jax.models.params import flatten, unflatten
from ldis_jax.tasks import PromptInputs
from ldis_jax.training.checkpoint import read_params
from ldis_jax.training.loop import train
from ldis_jax.weights import load_model, load_training_init, to_torch
from ldis_jax.weights.card import Provenance, model_card, read_provenance
from ldis_jax.weights.hub import resolve
from ldis_jax.weights.lora_files import LORA_FILE, merge, open_lora, trained_part
from ldis_jax.weights.model_folder import read_card
from ldis_jax.weights.tensors import Weights, from_array
from tests.helpers import CASES, MICRO, SIZE, call_command, micro_config, micro_task, needs_cases, run_of
from tests.reference import cases
from tests.reference.weights import arrays

UNET = "unet/diffusion_pytorch_model.safetensors"


def lora_config(folder):
    config = micro_config(folder)
    config.lora.rank, config.lora.alpha = 3, 6.0
    config.eval.prompt_swap, config.eval.pictures = 0, 0
    config.eval_every = 100
    config.train_steps, config.checkpoint_every = 6, 3
    config.optim.learning_rate, config.optim.warmup_steps = 1e-2, 0
    return config


@pytest.fixture(scope="module")
def trained(micro_folder, tmp_path_factory) -> Path:
    """``init/`` and ``run/``, six steps of LoRA with checkpoints of two."""
    root = tmp_path_factory.mktemp("lora")
    shutil.copytree(micro_folder, root / "init")
    card = model_card(micro_task("ldis1"), MICRO["ldis1"], Provenance(steps=0))
    (root / "init" / "README.md").write_text(card)
    with jax.numpy_dtype_promotion("standard"):  # as in test_train
        train(lora_config(root / "init"), root / "run")
    return root


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / UNET)


def test_train_with_lora_changes_and_stores_only_pairs_and_adapter(trained):
    saved = read_params(trained / "run" / "checkpoints")
    assert saved.fingerprint["lora"] == {"rank": 3, "alpha": 6.0, "also": ["encoder_hid_proj"]}
    assert all("lora_" in name or name.startswith("unet/encoder_hid_proj/") for name in saved.params)
    stored = (trained / "run" / "checkpoints" / "6" / "state" / "_METADATA").read_text()  # moments too
    assert "to_q/lora_A/kernel" in stored and "conv_in" not in stored and "to_q/kernel" not in stored
    before, after = tensors(trained / "init"), tensors(trained / "run" / "model")
    moved = {name for name in before if (before[name] != after[name]).any()}
    layers = {name.rsplit(".lora_", 1)[0] for name in alone(trained) if ".lora_" in name}
    assert moved == {f"{layer}.weight" for layer in layers} | {"encoder_hid_proj.weight", "encoder_hid_proj.bias"}


def alone(trained: Path) -> dict[str, np.ndarray]:
    found = load_file(trained / "run" / "lora" / LORA_FILE)
    return {name.removeprefix("unet."): array for name, array in found.items()}


def test_convert_of_a_lora_over_its_base_is_what_training_merged(trained, tmp_path, monkeypatch, capsys):
    arguments = [f"--model={trained / 'init'}", f"--lora={trained / 'run' / 'lora'}", f"--out={tmp_path / 'model'}"]
    status, out, error = call_command(convert.main, monkeypatch, capsys, *arguments)
    assert status == 0 and "ldis1 model folder" in out, error
    expected = tensors(trained / "run" / "model")
    for name, array in tensors(tmp_path / "model").items():
        np.testing.assert_array_equal(array, expected[name])
    loaded = load_model(trained / "init", lora=trained / "run" / "lora" / LORA_FILE)
    whole = load_model(trained / "run" / "model")
    assert (loaded.task, loaded.card) == (whole.task, whole.card)
    for name, array in arrays(loaded.model.unet).items():
        np.testing.assert_array_equal(array, expected[name])
    assert "lora |" in (tmp_path / "model" / "README.md").read_text()  # among what the weights come from
    for folder in (trained / "run" / "model", tmp_path / "model"):
        facts = read_provenance(read_card(folder))
        assert (facts.steps, facts.data, facts.knows) == (6, {"scenes": ()}, ("painted scenes",))


def test_merge_predicts_what_the_pairs_predict(trained):
    config = lora_config(trained / "init")
    run = run_of(config)
    graphdef, fresh, frozen, _ = run.start()
    saved = read_params(trained / "run" / "checkpoints").params
    assert saved.keys() == fresh.keys()
    query, keys = cases.random_images("q", 2, size=SIZE), jax.random.split(jax.random.key(0), 2)
    prompts = PromptInputs(*cases.prompts(1, size=SIZE))
    merged = load_model(trained / "run" / "model").model
    pairs, single, start = (
        cases.run(run.task.predict, m, query, prompts, keys)
        for m in (unflatten(graphdef, saved, frozen), merged, load_model(trained / "init").model)
    )
    assert np.abs(pairs - single).max() <= 1e-5 * np.abs(single).max()
    assert np.abs(start - single).max() > 1e-3
    before = cases.run(
        run.task.predict, unflatten(graphdef, fresh, frozen), query, prompts, keys
    )  # B is 0 before the first step
    assert np.abs(before - start).max() <= 1e-6 * np.abs(start).max()


def test_train_with_lora_resumes_bit_for_bit(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run, ignore=shutil.ignore_patterns("model", "lora", "6"))
    assert [path.name for path in (run / "checkpoints").iterdir() if path.is_dir()] == ["3"]
    with jax.numpy_dtype_promotion("standard"):
        train(lora_config(trained / "init"), run)
    expected = alone(trained)
    for name, array in alone(tmp_path).items():
        np.testing.assert_array_equal(array, expected[name])


def test_train_with_lora_refuses_another_rank(trained):
    config = lora_config(trained / "init")
    config.lora.rank = 2
    with jax.numpy_dtype_promotion("standard"), pytest.raises(LDISError, match=r"lora\.rank: 3 -> 2"):
        train(config, trained / "run")


@pytest.mark.parametrize("step", [3, 6])
def test_convert_exports_any_step_alone_and_merged(trained, tmp_path, monkeypatch, capsys, step):
    source = [f"--checkpoint={trained / 'run'}", f"--step={step}"]
    for arguments in (["--to=lora", f"--out={tmp_path / 'any' / 'name'}"], [f"--out={tmp_path / 'model'}"]):
        status, _, error = call_command(convert.main, monkeypatch, capsys, *source, *arguments)
        assert status == 0, error
    merged = load_model(trained / "init", lora=tmp_path / "any" / "name")
    assert merged.card == read_card(tmp_path / "model")
    found = tensors(tmp_path / "model")
    for name, array in arrays(merged.model.unet).items():
        np.testing.assert_array_equal(array, found[name])
    assert (found["encoder_hid_proj.weight"] != tensors(trained / "init")["encoder_hid_proj.weight"]).any()
    same = all((found[name] == array).all() for name, array in tensors(trained / "run" / "model").items())
    assert same == (step == 6)


def test_load_training_init_with_lora_widens_conv_in_for_ldisn(micro_folder_ldisn, tmp_path):
    """A base for latents alone: conv_in is widened with zeros, and trained beside the pairs."""
    base = Path(shutil.copytree(micro_folder_ldisn, tmp_path / "base"))
    kernels = tensors(base)
    kernels["conv_in.weight"] = np.ascontiguousarray(kernels["conv_in.weight"][:, :4])
    save_file(kernels, base / UNET)
    path = base / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 4}))
    task = load_model(micro_folder_ldisn).task
    lora = LoRA(2, also=("encoder_hid_proj", "conv_in"))
    init = load_training_init(base, task, seed=0, lora=lora)
    _, params, _ = flatten(init.model)
    assert params["unet/conv_in/kernel"].shape[2] == 8 and not params["unet/conv_in/kernel"][:, :, 4:].any()
    merged = merge(init.frozen["unet"], trained_part(to_torch(init.model.unet), lora))
    np.testing.assert_array_equal(merged.tensors["conv_in.weight"].read()[:, :4], kernels["conv_in.weight"])


def spoil_shape(pairs):
    name = next(name for name in pairs if "lora_A" in name)
    pairs[name] = np.zeros((5, 7), np.float32)


def spoil_pair(pairs):
    del pairs[next(name for name in pairs if "lora_B" in name)]


def spoil_name(pairs):
    pairs["unet.conv_out.surprise"] = np.zeros(3, np.float32)


def spoil_layer(pairs):
    pairs["unet.nowhere.lora_A.weight"] = np.zeros((3, 4), np.float32)
    pairs["unet.nowhere.lora_B.weight"] = np.zeros((4, 3), np.float32)


def spoil_value(pairs):
    pairs[next(name for name in pairs if "lora_B" in name)][0, 0] = np.nan


def spoil_kind(pairs):
    for name in [name for name in pairs if "lora" in name]:
        del pairs[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_shape, r"no LoRA of this model .*to_k with A \[5, 7\], B \[\d+, 3\], weight "),
        (spoil_pair, r"B None, weight"),
        (spoil_name, r"unused tensor conv_out\.surprise \[3\]"),
        (spoil_layer, r"nowhere with A \[3, 4\], B \[4, 3\], weight None"),
        (spoil_value, "holds NaN or infinity"),
        (spoil_kind, r"no LoRA of this model in diffusers' naming: no tensor unet\.\*\.lora_A\.weight"),
    ],
)
def test_load_model_refuses_spoiled_lora_files(trained, tmp_path, spoil, message):
    pairs = load_file(trained / "run" / "lora" / LORA_FILE)
    spoil(pairs)
    save_file(pairs, tmp_path / "bad.safetensors")
    with pytest.raises(LDISError, match=message) as error:
        load_model(trained / "init", lora=tmp_path / "bad.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['{"task": "ldis2"}', '{"task": "ldis1", "surprise": 1}'])
def test_open_lora_refuses_a_task_that_is_none(trained, tmp_path, text):
    pairs = load_file(trained / "run" / "lora" / LORA_FILE)
    save_file(pairs, tmp_path / "bad.safetensors", metadata={"ldis_config": text})
    with pytest.raises(LDISError, match=r"bad\.safetensors: "):
        open_lora(tmp_path / "bad.safetensors")


def test_load_model_takes_the_task_of_the_base_for_a_lora_by_others(trained, tmp_path):
    save_file(load_file(trained / "run" / "lora" / LORA_FILE), tmp_path / "plain.safetensors")
    assert load_model(trained / "init", lora=tmp_path / "plain.safetensors").task == load_model(trained / "init").task


def test_merge_of_a_base_in_half_precision_gives_float32(trained):
    base = Weights(to_torch(load_model(trained / "init", dtype="bfloat16").model.unet), "base")
    merged = merge(base, open_lora(trained / "run" / "lora").weights)
    assert {tensor.dtype for tensor in merged.tensors.values()} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=init", "--to=lora", "--out=x.safetensors"], "--to: has no effect with --model"),
        (["--checkpoint=run", "--to=lora", "--init=init", "--out=x.safetensors"], "--init: has no effect"),
        (["--checkpoint=run", "--lora=run/lora", "--out=x"], "--lora: has no effect with --checkpoint"),
        (["--model=init", "--lora=nowhere", "--out=x"], "nowhere: cannot be read (No such file"),
        (["--model=init", "--lora=init/" + UNET, "--out=x"], "no LoRA of this model"),
    ],
)
def test_convert_refuses_wrong_lora_options(trained, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(trained)
    status, _, error = call_command(convert.main, monkeypatch, capsys, *arguments)
    assert status == 2 and message in error and error.count("\n") == 1
    assert not (trained / "x").exists()


def test_run_refuses_lora_on_a_unet_that_is_drawn(micro_folder):
    config = lora_config(micro_folder)
    config.init.unet = {"block_out_channels": (8, 16)}
    with pytest.raises(LDISError, match="adapts a trained UNet"):
        run_of(config).start()


LAYERS = {"a.to_q": 4, "a.to_k": 4, "b.to_q": 4, "b.attn1.to_q": 2}  # and the ranks of their pairs
CONFIGS = {
    "alpha": {"r": 4, "lora_alpha": 16},
    "alpha that is no integer": {"r": 4, "lora_alpha": 2.5},
    "square root": {"r": 4, "lora_alpha": 16, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": {"to_q": 3, "a.to_k": 5, "b.to_q": 7}},
    "first pattern": {"r": 4, "lora_alpha": 4, "alpha_pattern": {"^a.to_q": 9, "^to_q": 3, "b.*to_q": 2, "to_q": 1}},
    "defaults": {"r": 4},
}


def pairs_file(path, config, prefix="unet.", **others):
    """A LoRA as diffusers writes it, and a base that has its layers."""
    rng = np.random.default_rng(0)
    ranks = {layer: config.get("r", 8) if rank == 4 else rank for layer, rank in LAYERS.items()}
    pairs = {f"{prefix}{n}.lora_A.weight": rng.standard_normal((r, 6), np.float32) for n, r in ranks.items()}
    pairs |= {f"{prefix}{n}.lora_B.weight": rng.standard_normal((5, r), np.float32) for n, r in ranks.items()}
    base = {f"{layer}.weight": rng.standard_normal((5, 6), np.float32) for layer in LAYERS}
    metadata = {f"{prefix}{key}": value for key, value in config.items()}
    save_file(pairs, path, {"lora_adapter_metadata": json.dumps(metadata), **others})
    return {name.removeprefix(prefix): array for name, array in pairs.items()}, base


def merged_of(path, base):
    merged = merge(Weights({name: from_array(array) for name, array in base.items()}, "base"), open_lora(path).weights)
    return {name: tensor.read() for name, tensor in merged.tensors.items()}


@pytest.mark.parametrize("prefix", ["unet.", ""])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_open_lora_scales_as_the_metadata_says(tmp_path, config, prefix):
    """As peft itself merges the same pairs under the same config."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    config = config | {"rank_pattern": {**config.get("rank_pattern", {}), "attn1.to_q": 2}}
    pairs, base = pairs_file(tmp_path / "x.safetensors", config, prefix)
    found = merged_of(tmp_path / "x.safetensors", base)

    model = torch.nn.Module()
    for layer in LAYERS:
        *parents, leaf = layer.split(".")
        parent = model
        for name in parents:
            if not hasattr(parent, name):
                parent.add_module(name, torch.nn.Module())
            parent = getattr(parent, name)
        parent.add_module(leaf, torch.nn.Linear(6, 5, bias=False))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in base.items()})
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["to_q", "to_k"], **config), model)
    peft.set_peft_model_state_dict(model, {name: torch.from_numpy(array) for name, array in pairs.items()})
    for layer in LAYERS:
        theirs = model.get_submodule(layer)
        theirs.merge()
        np.testing.assert_allclose(found[f"{layer}.weight"], theirs.weight.detach().numpy(), rtol=1e-5, atol=1e-5)


@needs_cases
def test_load_model_merges_a_lora_of_diffusers_into_the_bundled_model():
    path = CASES / "lora_meta.safetensors"  # alpha 16, r 4
    base, merged = (load_model(resolve("tiny"), lora=lora).model.unet for lora in (None, path))
    base, merged, pairs = arrays(base), arrays(merged), load_file(path)
    layers = {name.removeprefix("unet.").removesuffix(".lora_A.weight") for name in pairs if "lora_A" in name}
    assert len(layers) == 8
    for layer in layers:
        a, b = (pairs[f"unet.{layer}.lora_{part}.weight"] for part in "AB")
        expected = base[f"{layer}.weight"] + 4 * b @ a
        np.testing.assert_allclose(merged[f"{layer}.weight"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_dora": True}, "with use_dora, which cannot be merged here"),
        ({"init_lora_weights": "pissa"}, "with init_lora_weights, which"),
        ({"bias": "all", "layer_replication": [[0, 2]]}, "with bias, layer_replication, which"),
        ({"alpha_pattern": {"(a+)+": 2}}, r"with pattern '\(a\+\)\+', which"),
        ({"alpha_pattern": {".*.*.*.*": 2}}, "with pattern"),
        ({"r": 3}, r"rank 3 of a\.to_k with B \[5, 4\]"),
        ({"r": 0}, "lora_adapter_metadata: cannot be read .*r: .*greater than 0"),
        ({"r": "4"}, "lora_adapter_metadata: cannot be read .*r: .*integer"),
        ({"lora_alpha": None}, "lora_adapter_metadata: cannot be read .*lora_alpha"),
        ({"alpha_pattern": [1]}, "lora_adapter_metadata: cannot be read .*alpha_pattern"),
    ],
)
def test_open_lora_refuses_metadata_that_cannot_be_honoured(tmp_path, changes, why):
    path = tmp_path / "x.safetensors"
    config = {"r": 4, "lora_alpha": 4, "rank_pattern": {"attn1.to_q": 2}}
    pairs, _ = pairs_file(path, config)
    metadata = {f"unet.{key}": value for key, value in (config | changes).items()}
    save_file({f"unet.{n}": array for n, array in pairs.items()}, path, {"lora_adapter_metadata": json.dumps(metadata)})
    with pytest.raises(LDISError, match=why) as error:
        open_lora(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", '{"unet.r": 4, "unet.r": 8}', 100_000 * "[", '{"unet.lora_alpha": NaN}'])
@pytest.mark.parametrize("key", ["lora_adapter_metadata", "ldis_config"])
def test_open_lora_refuses_strange_json_in_the_header(tmp_path, key, text):
    save_file({"unet.a.lora_A.weight": np.ones((2, 2), np.float32)}, tmp_path / "x.safetensors", {key: text})
    with pytest.raises(LDISError, match=f"{key}: cannot be read") as error:
        open_lora(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.to_q.lora_magnitude_vector", "a.to_q.lora_B.bias", "a.to_q.alpha"])
def test_merge_does_not_leave_out_other_parts_of_a_lora(tmp_path, name):
    path = tmp_path / "x.safetensors"
    pairs, base = pairs_file(path, {"r": 4, "rank_pattern": {"attn1.to_q": 2}})
    save_file({**pairs, name: np.ones(4, np.float32)}, path)
    if name.endswith("alpha"):  # for match to name
        assert name in merged_of(path, base)
        return
    with pytest.raises(LDISError, match=f"no LoRA of this model in diffusers' naming: {name}"):
        merged_of(path, base)
