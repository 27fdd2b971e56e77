"""Every command that a document gives is good: it parses up to where work would start, and a test runs its like.

``RUN_BY`` says which test runs a command with these flags on small stand-ins. A command in the documents without an
entry fails, as does an entry that no document has any more.
"""

import ast
import importlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.helpers import ROOT, load_script
from tests.launch.conftest import repository, world  # noqa: F401

DOCUMENTS = [path for pattern in ("*.md", "docs/*.md", "data/**/*.md", "launch/*.md") for path in ROOT.glob(pattern)]

_COMMAND = re.compile(r"^(?:\S*python3?(?: -m (?=ldis_jax)| (?=(?:tools|data|benchmarks)/))|(?=launch/\w+\.sh))(\S.*)$")
_TRAINS = "tests/docs/test_notebooks.py::test_finetune"
_FINETUNES = "tests/docs/test_pages.py::test_finetune_page_commands_work_in_order_as_they_stand"
_CONVERTS = "tests/commands/test_convert_weights.py::test_convert_makes_a_model_folder_of_stable_diffusion"
_COMPILES = "tests/costs/test_compile.py::test_compile_reports_both_programs_on_a_slice"
_BUILDS = "tests/data/test_build_command.py::test_build_and_build_again"
_FREEZES = "tests/input_pipeline/test_freeze_episodes.py::test_freeze_episodes_writes_a_manifest"
_EVALUATES = "tests/evaluation/test_benchmark.py::test_evaluate_writes_a_report_and_its_page"
_REPRODUCES = "tests/docs/test_reproduce.py::test_reproduce_page_commands_work_in_order_as_they_stand"
_LAUNCHES = "tests/docs/test_documented_commands.py::test_documented_commands_to_launch_are_good"

# Program and its flags, without values -> the test that runs it.
RUN_BY = {
    "ldis_jax.main --config": _TRAINS,
    "ldis_jax.main --config --config.init.folder": _TRAINS,
    "ldis_jax.main --config --config.init.folder --workdir": _TRAINS,
    "ldis_jax.main --config --config.init.folder --config.mesh.fsdp --workdir": (
        "tests/training/test_crash.py::test_main_shares_parameters_between_two_processes_and_goes_on_with_one"
    ),
    "ldis_jax.main --config --config.init.folder --config.mesh.fsdp --multihost --workdir": (
        "tests/training/test_crash.py::test_main_goes_on_with_two_processes_and_then_with_one"
    ),
    "ldis_jax.main --config --config.executable --config.init.folder --config.mesh.fsdp": (
        "tests/training/test_compiled_step.py::test_train_loads_a_compiled_step_and_ends_the_same"
    ),
    "ldis_jax.main --config --config.data.folder --config.init.folder --workdir": _FINETUNES,
    "ldis_jax.main --config --config.data.folder --workdir": _FINETUNES,
    "ldis_jax.check_data --data": _FINETUNES,
    "ldis_jax.segment --model --out --overlay --prompt --query": (
        "tests/test_commands.py::test_segment_writes_mask_and_overlay"
    ),
    "ldis_jax.segment --model --out --prompt --query": (
        "tests/test_segment_labels.py::test_segment_takes_a_label_of_a_label_map"
    ),
    "ldis_jax.demo --model": "tests/demo/test_page.py::test_page_examples_work_at_once",
    "ldis_jax.convert --alpha_clip --out --sd15 --task": _CONVERTS,
    "ldis_jax.named_models": "tests/weights/test_named_models.py::test_named_models_lists_verifies_and_removes",
    "ldis_jax.named_models --ldis": (
        "tests/weights/test_named_models.py::test_named_folder_asks_which_of_two_candidates_is_meant"
    ),
    "ldis_jax.convert --lora --model --out": _FINETUNES,
    "ldis_jax.export --model --num_prompts --out": (
        "tests/test_export.py::test_export_runs_as_documented_without_this_package"
    ),
    "ldis_jax.evaluate --benchmark --data --model --out": _EVALUATES,
    "ldis_jax.evaluate --benchmark --data --manifest --model --out": (
        "tests/evaluation/test_folder_benchmark.py::test_evaluate_folder_runs_another_model_on_the_same_episodes"
    ),
    "ldis_jax.compile --config --config.mesh.fsdp --topology": _COMPILES,
    "ldis_jax.compile --config --config.mesh.fsdp --program --topology": _COMPILES,
    "ldis_jax.evaluate --benchmark --data --model --num_shots --out": _REPRODUCES,
    "ldis_jax.compile --config --config.executable --config.mesh.fsdp --program --topology": _COMPILES,
    "data/build.py --num_workers --out --source --split": _BUILDS,
    "data/build.py --out --source": _BUILDS,
    "data/build.py --out --source --split": _BUILDS,
    "data/freeze_episodes.py --episodes --num_shots --out --root --seed --split": _FREEZES,
    "tools/mesh_test.py": (
        "tests/training/test_crash.py::test_main_shares_parameters_between_two_processes_and_goes_on_with_one"
    ),
    "tools/compare_reports.py": (
        "tests/evaluation/test_compare_reports.py::"
        "test_compare_reports_prints_a_gain_that_the_intervals_of_both_would_hide"
    ),
    "tools/calibrate.py --config --config.data.folder --config.eval.calibrate_by "
    "--config.eval.sets.choosing.episodes --model": (
        "tests/training/test_calibration.py::test_calibrate_fits_a_folder_in_place"
    ),
    "tools/tpu_table.py --minutes": "tests/docs/test_scripts.py::test_tpu_table_keeps_what_is_compiled",
    "tools/speed_tables.py": "tests/docs/test_pages.py::test_speed_page_has_the_tables_of_the_figures",
    "tools/error_messages.py": (
        "tests/docs/test_error_messages.py::test_error_messages_have_one_cause_each_and_every_cause_has_messages"
    ),
    "tools/explain_pictures.py --model --out": "tests/docs/test_scripts.py::test_explain_pictures_draws_every_sheet",
    "tools/paper_table.py --reports": _REPRODUCES,
    "benchmarks/evidence/small_data.py --source": "tests/docs/test_evidence.py::test_small_data",
    "benchmarks/evidence/sweep.py --only": "tests/docs/test_evidence.py::test_sweep_runs_a_variant_once",
    "benchmarks/evidence/sweep.py --minutes": "tests/docs/test_evidence.py::test_sweep_runs_a_variant_once",
    "benchmarks/evidence/report.py": "tests/docs/test_evidence.py::test_evidence_page_is_that_of_the_results",
    "benchmarks/variants.py": "tests/docs/test_scripts.py::test_variants_benchmark_prints_the_costs_of_every_variant",
    "benchmarks/convert.py": "tests/docs/test_scripts.py::test_convert_benchmark_measures_seconds_and_memory",
    "launch/tpu_vm.sh": _LAUNCHES,
    "launch/gke_jobset.sh": _LAUNCHES,
    "launch/gke_xpk.sh": _LAUNCHES,
    "launch/slurm.sh": _LAUNCHES,
}

# Where work would start: arguments are read and checked by then.
STARTS = {
    "ldis_jax.segment": ["ldis_jax.commands.segment_files.find_queries"],
    "ldis_jax.evaluate": ["ldis_jax.evaluate.prepare"],
    "ldis_jax.demo": ["ldis_jax.pipeline.LDISPipeline.from_pretrained"],
    "ldis_jax.convert": [
        f"ldis_jax.commands.convert_weights.from_{origin}" for origin in ("stable_diffusion", "checkpoint", "model")
    ],
    "data/build.py": ["ldis_jax.datasets.builder.RecordBuilder.of_splits"],
    "data/freeze_episodes.py": ["ldis_jax.evaluation.benchmark_data.open_source"],
}


def documented():
    """The commands of all documents as lists of words: those in blocks, and of scripts those in running text too."""
    found = {}
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
        lines = [*re.split(r"\n| && (?=\.venv)", blocks), *re.findall(r"`(python (?:tools|benchmarks)/[^`]+)`", text)]
        for match in filter(None, map(_COMMAND.match, lines)):
            words = shlex.split(match[1], comments=True)
            found[shlex.join(words)] = words
    return list(found.values())


def kind(words):
    """The key of a command in ``RUN_BY``."""
    own = words[1 : words.index("--")] if "--" in words else words[1:]
    flags = sorted({word.partition("=")[0] for word in own if word.startswith("--")})
    return words[0] if words[0].startswith("launch/") else " ".join([words[0], *flags])


COMMANDS = documented()
CONFIGURED = [words for words in COMMANDS if words[0] in ("ldis_jax.main", "ldis_jax.compile", "tools/calibrate.py")]
LAUNCHED = [words for words in COMMANDS if words[0].startswith("launch/")]
PARSED = [words for words in COMMANDS if words not in CONFIGURED + LAUNCHED and len(words) > 1]


def test_documented_commands_are_each_run_by_a_test():
    assert len(COMMANDS) > 25 and {kind(words) for words in COMMANDS} == RUN_BY.keys()
    for place in set(RUN_BY.values()):
        file, name = place.split("::")
        tests = [
            node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body if hasattr(node, "name")
        ]
        assert name in tests, place


class _StartedError(Exception):
    """Work would start here."""


def _start(*_, **__):
    raise _StartedError


@pytest.mark.parametrize("words", PARSED, ids=shlex.join)
def test_documented_commands_have_good_arguments(words, monkeypatch):
    program = words[0]
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "data"))
    monkeypatch.setattr(sys, "argv", words)
    stops = STARTS.get(program)
    if stops is None:
        parse = "argparse.ArgumentParser.parse_args"
        monkeypatch.setattr(parse, lambda self: self.parse_known_args()[1] == [] and _start())
    for stop in stops or ():
        monkeypatch.setattr(stop, _start)
    module = load_script(ROOT / program) if program.endswith(".py") else importlib.import_module(program)
    if not hasattr(module, "main"):  # a package
        module = importlib.import_module(f"{program}.__main__")
    with pytest.raises(_StartedError):
        module.main()


# One process for all: flags of absl can be defined once, and jax takes a second to import.
_READ_CONFIGS = """
import importlib, os, sys
import ldis_jax.config

for line in sys.stdin.read().splitlines():
    child = os.fork()
    if not child:
        sys.argv = line.split(" ")
        module = importlib.import_module(sys.argv[0].removesuffix(".py").replace("/", "."))
        try:
            module.read_config("", ())
        except BaseException as error:
            print(f"{line}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_documented_commands_have_good_configs_and_keys():
    lines = "\n".join(" ".join(words) for words in CONFIGURED)
    assert CONFIGURED and "'" not in lines
    command = [sys.executable, "-W", "ignore", "-c", _READ_CONFIGS]
    done = subprocess.run(command, cwd=ROOT, input=lines, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("words", LAUNCHED, ids=lambda words: " ".join(words[:2]))
def test_documented_commands_to_launch_are_good(world, words):  # noqa: F811
    script, action, *rest = words
    result = world.run(script.removeprefix("launch/"), action, "--dry_run", *rest)
    assert result.returncode == 0, result.stderr
    assert world.calls() == []
