"""The two tiers of the tests, in one place; tests/conftest.py marks what is ``slow`` here.

The fast tier is the README's test command: what this project stands on, in at most six minutes on two cores. The
thorough tier, ``python -m pytest -m slow -n 2``, is everything else. A test that neither table names is fast, and may
take three seconds at most; what a fixture of its module costs falls on the first test that uses it.
tests/durations.json has the seconds of both (see CONTRIBUTING.md).
"""

import json
import re

from tests.helpers import ROOT

RECORD = ROOT / "tests" / "durations.json"

# Files that are slow but for the tests named here. A name stands for all of its parameters, or for those in brackets.
SLOW_FILES: dict[str, tuple[str, ...]] = {
    "commands/test_convert_weights.py": ("test_help_does_not_wait_for_jax",),
    "costs/test_compile.py": (
        *("test_advice_is_about_the_program", "test_meshes_of_real_slices", "test_peaks_of_devices_that_run"),
        *("test_text_of_a_program_that_xla_cannot_read_back", "test_bad_command_lines"),
    ),
    "demo/test_strangers.py": ("test_runs_are_bounded_in_time_and_disk",),
    "docs/test_notebooks.py": (
        *("test_it_is_committed_without_results", "test_it_asks_whose_repository_first"),
        "test_it_starts_in_a_clone_as_it_is",
    ),
    "docs/test_reproduce.py": ("test_the_hours_on_the_page_are_those_of_the_cells",),
    "docs/test_scripts.py": ("test_the_tables_on_the_page_are_those_of_the_cells",),
    "evaluation/test_curve.py": (),
    "evaluation/test_folder_benchmark.py": ("test_refusals", "test_what_is_not_known_is_not_claimed"),
    "evaluation/test_folds.py": (
        *("test_a_name_without_a_fold_stands_for_all_four", "test_the_mean_is_over_folds"),
        *("test_folds_are_resampled_apart", "test_flags_of_one_fold"),
    ),
    "evaluation/test_multihost.py": (),
    "evaluation/test_protocols.py": (),
    "fuzz/test_commands.py": (),
    "fuzz/test_files.py": (),
    "fuzz/test_media.py": (),
    "fuzz/test_requests.py": (),
    "launch/test_tpu_host.py": (),
    "launch/test_tpu_vm.py": (
        *("test_a_dry_run_prints_commands_to_paste_and_calls_nothing", "test_delete_of_nothing_is_no_error"),
        *("test_a_fresh_run_creates_uploads_trains_and_deletes", "test_without_a_git_checkout_nothing_is_asked_for"),
        "test_a_work_folder_that_would_go_with_the_vm_is_refused",
    ),
    "look_inside/test_look_inside.py": (),
    "parity/test_prompts.py": (),
    "parity/test_vae_tiny.py": (),
    "runtime/test_compilation_cache.py": (),
    "tasks/test_ablations.py": (
        *("test_all_variants_are_there", "test_what_is_no_variant_is_told_them", "test_the_header_says_what_it_is"),
    ),
    "test_cases.py": (),
    "test_export.py": (),
    "test_pipeline.py": (),
    "test_pipeline_many.py": (),
    "training/test_best_step.py": (
        *("test_best_step_is_the_first_of_the_greatest_and_ends_after_as_many_worse_ones",),
        "test_the_set_that_chooses_has_to_be_one",
    ),
    "training/test_calibration.py": ("test_sets_that_do_not_fit_are_refused",),
    "training/test_compiled_step.py": (),
    "training/test_crash.py": (),
    "training/test_loop.py": (
        *("test_a_run_leaves_everything_a_user_expects", "test_resume_is_bit_identical"),
        *("test_frozen_towers_are_neither_trained_nor_stored", "test_bad_config_is_one_clear_line"),
        *("test_every_mesh_gives_the_same_losses_and_compiles_once[ldis1-meshes0]",),
    ),
    "training/test_profiling.py": (),
    "training/test_programs.py": (),
    "weights/test_card.py": (),
    "weights/test_checkpoint_export.py": (),
    "weights/test_lora_files.py": ("test_metadata_that_cannot_be_honoured", "test_strange_json_in_the_header"),
    "weights/test_named_models.py": (),
    "weights/test_shipped.py": (),
}
# Slow tests of files that are fast otherwise.
SLOW_TESTS: dict[str, tuple[str, ...]] = {
    "data/test_build_command.py": ("test_a_killed_build_leaves_nothing_that_counts",),
    "data/test_builders.py": ("test_workers_change_nothing",),
    "demo/test_requests.py": (
        *("test_ldisn_shows_every_step", "test_one_class_gives_the_pipelines_mask"),
        "test_class_names_put_prompts_together",
    ),
    "diffusion/test_sampler.py": ("test_every_step_is_diffusers", "test_a_perfect_network_finds_the_data"),
    "docs/test_evidence.py": ("test_a_variant_is_run_once",),
    "docs/test_pages.py": ("test_the_commands_of_the_fine_tuning_page",),
    "evaluation/test_benchmark.py": (
        *("test_a_run_cut_off_goes_on_to_the_same_report", "test_batch_size_changes_nothing"),
        "test_a_report_to_a_pipe_is_the_report_alone",
        *("test_copy_prompt_of_a_report_is_the_figure_of_hsnets_own_code", "test_intervals_cover_as_they_say"),
    ),
    "evaluation/test_video_benchmark.py": ("test_the_command", "test_davis_2017_has_several_objects_a_video"),
    "input_pipeline/test_loader.py": ("test_the_interpreter_exits_with_an_open_loader",),
    "models/test_convolution.py": ("test_any_batch", "test_other_platforms_convolve", "test_upsample", "test_ways"),
    "models/test_efficientnet.py": (
        *("test_padding_is_not_read", "test_a_prompt_without_object_stays_finite"),
        *("test_alpha_is_the_mean_over_a_token", "test_what_resembles_the_object_is_told_from_the_rest"),
    ),
    "models/test_lora.py": (
        *("test_counts_at_sd15_size", "test_no_gradient_of_a_frozen_kernels_size"),
        *("test_torch_paints_the_same_and_has_the_same_gradients", "test_peft_reads_the_file"),
    ),
    "models/test_unet.py": ("test_branches_read_what_they_would_alone",),
    "parity/test_parity.py": (
        "test_live",
        *(f"test_golden[R/{name}/2]" for name in ("added", "noised", "pre", "post", "none")),
        *(f"test_golden[R/ldisn/{sampler}]" for sampler in ("ddim/1", "ddim/3", "ddpm/1", "ddpm/3")),
        *(f"test_golden[loss/{name}]" for name in ("pixel", "perturbed", "added", "noised", "ldisn_perturbed")),
        *("test_golden[R/ldis1/3]", "test_golden[R/plain/3]", "test_golden[loss/ldisn]", "test_golden[gradient/ldisn]"),
        *("test_golden[gradient/pixel]", "test_instruction_mask"),
    ),
    "parity/test_tasks.py": (
        *("test_ldisn_draws_from_each_querys_own_key", "test_neighbours_in_the_batch_do_not_matter"),
        "test_ldisn_options_override_the_tasks_defaults",
    ),
    "tasks/test_variants.py": (
        "test_noise_at_prediction_is_a_function_of_each_querys_key",
        "test_the_decoder_computed_again_gives_the_same_gradient_from_less_memory",
    ),
    "test_commands.py": (
        *("test_fine_tuning_takes_its_task_from_the_model_folder", "test_segment_writes_mask_and_overlay"),
        *("test_segments_bad_input_exits_with_2_and_one_line[change6-broken.png]", "test_waiting_for_other_hosts_ends"),
        "test_how_training_ends",
    ),
    "support/test_cli.py": ("test_a_user_without_home_and_name",),
    "test_segment.py": ("test_what_is_compiled_while_weights_are_read",),
    "training/test_checkpoint.py": (
        *("test_a_damaged_newest_checkpoint_gives_way_to_the_one_before", "test_eight_devices_to_fewer"),
        "test_a_flipped_bit_is_noticed_or_harms_nothing",
    ),
    "training/test_step.py": (
        *("test_accumulated_gradients_are_the_mean_of_the_parts", "test_rematerialisation_changes_no_number"),
        *("test_bfloat16_gradients_stay_close_and_masters_float32", "test_the_average_of_parameters"),
        "test_the_parts_of_a_batch_draw_apart",
    ),
    "weights/test_clip.py": (
        *("test_every_source_gives_the_tower", "test_tokens_are_transformers_own", "test_unknown_and_lora_tensors"),
    ),
    "weights/test_diffusers_files.py": (
        *("test_r_is_ours[ldis1-3-changes1]", "test_r_is_ours[ldisn-3-changes2]", "test_r_is_ours[ldisn-1-changes3]"),
        "test_r_is_ours_where_the_encoder_describes_the_query",
        "test_pictures_of_any_size",
    ),
    "weights/test_hub.py": ("test_model_loads", "test_cache_serves_without_the_hub"),
    "weights/test_model_folder.py": (
        *("test_bfloat16_there_and_back", "test_spoiled_tensors", "test_there_and_back_is_exact"),
        "TestTrainingInit",
    ),
    "weights/test_rules.py": (
        *("test_fresh_parameters", "test_memory_between_what_stays_is_returned", "test_there_and_back_is_exact"),
    ),
    "weights/test_stable_diffusion.py": ("test_every_form_of_a_diffusers_folder", "TestPapersCheckpoints"),
    "weights/test_torch_files.py": ("test_spoiled_files_are_one_clear_line_and_run_nothing[zip bomb]",),
}


def is_slow(nodeid: str) -> bool:
    """Whether a test, as pytest names it, is of the thorough tier."""
    path, _, test = nodeid.removeprefix("tests/").partition("::")

    def named(names: tuple[str, ...]) -> bool:
        return any(test == name or test.startswith((f"{name}[", f"{name}::")) for name in names)

    return not named(SLOW_FILES[path]) if path in SLOW_FILES else named(SLOW_TESTS.get(path, ()))


def seconds() -> dict[str, float]:
    """The record: what each test took, with the fixtures that were set up for it."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def store(found: dict[str, float]) -> None:
    """Puts what was measured into the record, and takes out tests that are no more."""
    record = {
        nodeid: round(took, 2)
        for nodeid, took in sorted((seconds() | found).items())
        if nodeid in found or is_defined(nodeid)
    }
    RECORD.write_text(json.dumps(record, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def is_defined(nodeid: str) -> bool:
    """Whether the file of a test still has a test or a class of that name."""
    path, _, test = nodeid.partition("::")
    name = test.partition("[")[0].partition("::")[0]
    file = ROOT / path
    return file.is_file() and re.search(rf"^(?:def|class) {name}\b", file.read_text(encoding="utf-8"), re.M) is not None
