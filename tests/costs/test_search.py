"""The search over slices and options, with a compiler that answers at once."""

import json

import pytest

from ldis_jax import LDISError
from ldis_jax.costs import search as module
from ldis_jax.costs.search import Candidate, candidates, least_bytes, search
from tests.costs.test_compile import needs_libtpu, run
from tests.helpers import micro_config, run_of

GB = 10**9


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Names of what was compiled, and a value of fsdp that cannot be; four chips need small moments."""
    monkeypatch.setenv("LDIS_JAX_CACHE", str(tmp_path))
    names, broken = [], {}

    def answer(arguments, candidate, batch_size, path):
        if candidate.fsdp == broken.get("fsdp"):
            return "the compiler ended"
        names.append(str(candidate))
        fits = candidate.chips != 4 or candidate.moment_dtype == "bfloat16"
        ms = 80 / candidate.chips + candidate.fsdp
        figures = {"fits": fits, "peak_bytes": 20 * GB, "chip_bytes": 16 * GB, "predicted_ms": ms}
        figures |= {"predicted_compute_ms": ms, "predicted_unhidden_ms": 0.0}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"train": figures}))
        return ""

    monkeypatch.setattr(module, "_compile", answer)
    return names, broken


def lines_of(folder, minutes, **keys):
    lines, config = [], micro_config(folder)
    config.update(keys)
    found = search(run_of(config), ["--config=x"], "v5e:2x4", 8, minutes, lines.append)
    return found, lines


def test_search_finds_the_fastest_and_the_cheapest(micro_folder, compiled):
    names, _ = compiled
    found, lines = lines_of(micro_folder, 1)
    assert found and names == [
        *("v5e:2x4 mesh.fsdp=8 optim.moment_dtype=float32", "v5e:2x4 mesh.fsdp=4 optim.moment_dtype=float32"),
        "v5e:2x4 mesh.fsdp=1 optim.moment_dtype=float32",
        *("v5e:2x2 mesh.fsdp=4 optim.moment_dtype=float32", "v5e:2x2 mesh.fsdp=4 optim.moment_dtype=bfloat16"),
        *("v5e:2x2 mesh.fsdp=1 optim.moment_dtype=float32", "v5e:2x2 mesh.fsdp=1 optim.moment_dtype=bfloat16"),
        "v5e:1x1 mesh.fsdp=1 optim.moment_dtype=float32",
    ]
    assert "v5e:2x2 mesh.fsdp=4 optim.moment_dtype=float32: does not fit 20.0 of 16 GB" in lines
    assert lines[-4:] == [
        "fastest: v5e:2x4, 11.0 ms a step, 3.1 chip-hours a million episodes",
        "  in the config: config.mesh.fsdp = 1; config.optim.moment_dtype = 'float32'",
        "cheapest: v5e:1x1, 81.0 ms a step, 2.8 chip-hours a million episodes",
        "  in the config: config.mesh.fsdp = 1; config.optim.moment_dtype = 'float32'",
    ]
    assert lines_of(micro_folder, 0)[1] == lines and len(names) == 8, "nothing is compiled twice"
    lines_of(micro_folder, 1, remat="blocks")
    assert len(names) == 16, "another config is another program"


def test_search_names_what_it_had_no_time_for(micro_folder, compiled):
    found, lines = lines_of(micro_folder, 0)
    assert not found and not compiled[0] and lines[0] == "none of those tried fits"
    assert lines[1].startswith("not tried, for want of time: v5e:2x4 mesh.fsdp=8 optim.moment_dtype=float32; ")
    assert lines[2] == "the same command goes on from here; --search_minutes gives it longer"


def test_search_leaves_out_what_cannot_fit(micro_folder, compiled, monkeypatch):
    monkeypatch.setattr(module, "least_bytes", lambda run, candidate: 17 * GB // candidate.fsdp)
    lines = lines_of(micro_folder, 1)[1]
    assert not any("mesh.fsdp=1 " in name for name in compiled[0])
    assert any(line.startswith("not tried, they cannot fit: v5e:2x4 mesh.fsdp=1 ") for line in lines)


def test_search_goes_on_where_one_cannot_be_compiled(micro_folder, compiled):
    compiled[1]["fsdp"] = 8
    found, lines = lines_of(micro_folder, 1)
    assert found and lines[0] == "v5e:2x4 mesh.fsdp=8 optim.moment_dtype=float32: the compiler ended"


def test_least_bytes_are_shared_by_chips(micro_folder):
    run = run_of(micro_config(micro_folder))
    one, four, small = (
        least_bytes(run, Candidate("v5e:2x2", fsdp, dtype))
        for fsdp, dtype in ((1, "float32"), (4, "float32"), (1, "bfloat16"))
    )
    count = sum(x.size for x in run.shapes[1].values())
    assert one - four == 12 * count * 3 // 4 and one - small == 4 * count


def test_candidates_divide_the_batch():
    assert {each.topology for each in candidates("v5p:2x2x2", 8)} == {"v5p:2x2x2", "v5p:2x2x1"}
    with pytest.raises(LDISError, match="multiple of the 16 chips of v5e:4x4"):
        candidates("v5e:4x4", 24)


@needs_libtpu
@pytest.mark.timeout(900)
def test_search_compiles_with_the_real_compiler(micro_folder, tmp_path):
    flags = ["--config=tests/costs/micro.py", f"--config.init.folder={micro_folder}", "--topology=v5e:1x1"]
    done = run(*flags, "--search", "--batch_size=8", LDIS_JAX_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("v5e:1x1 mesh.fsdp=1 optim.moment_dtype=float32: ") and "cheapest: " in done.stdout
    assert len(list((tmp_path / "compiled_costs").iterdir())) == 1
    wrong = run(*flags, "--search", "--program=predict")
    assert wrong.returncode == 2 and "--search: does not go with --json, --program=predict" in wrong.stderr
    more = run(*flags, "--search", "--batch_size=8", "--search_minutes=0", LDIS_JAX_CACHE=str(tmp_path))
    assert more.stdout == done.stdout, "another time goes on from what is compiled"
