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
    "commands/test_convert_weights.py": ("test_convert_help_does_not_wait_for_jax",),
    "costs/test_compile.py": (
        *(
            "test_advice_is_about_the_program",
            "test_process_rows_on_real_slices_are_the_batch_once",
            "test_peak_flops_knows_devices_that_run",
        ),
        *("test_compile_with_text_reads_a_program_that_xla_cannot_read_back", "test_compile_rejects_bad_command_lines"),
    ),
    "demo/test_strangers.py": ("test_server_in_time_bounds_runs_in_time_and_disk",),
    "docs/test_notebooks.py": (
        *("test_notebooks_are_committed_without_results", "test_notebooks_ask_whose_repository_first"),
        "test_notebooks_start_in_a_clone_as_it_is",
    ),
    "docs/test_reproduce.py": ("test_reproduce_page_hours_are_those_of_the_cells",),
    "docs/test_scripts.py": ("test_tpu_table_on_the_page_is_that_of_the_cells",),
    "evaluation/test_curve.py": (),
    "evaluation/test_folder_benchmark.py": (
        "test_evaluate_folder_rejects_bad_input_in_one_line",
        "test_domain_does_not_claim_what_is_not_known",
    ),
    "evaluation/test_folds.py": (
        *("test_folded_names_stand_for_all_four_folds", "test_mean_of_folds_averages_the_figures_of_each_fold"),
        *("test_mean_of_folds_resamples_folds_apart", "test_evaluate_of_all_folds_rejects_flags_of_one_fold"),
    ),
    "evaluation/test_multihost.py": (),
    "evaluation/test_protocols.py": (),
    "fuzz/test_commands.py": (),
    "fuzz/test_files.py": (),
    "fuzz/test_media.py": (),
    "fuzz/test_requests.py": (),
    "launch/test_tpu_host.py": (),
    "launch/test_tpu_vm.py": (
        *(
            "test_tpu_vm_dry_run_prints_commands_to_paste_and_calls_nothing",
            "test_tpu_vm_delete_of_nothing_is_no_error",
        ),
        *(
            "test_tpu_vm_run_creates_uploads_trains_and_deletes",
            "test_tpu_vm_run_asks_for_nothing_without_a_git_checkout",
        ),
        "test_tpu_vm_run_rejects_a_work_folder_that_would_go_with_the_vm",
    ),
    "look_inside/test_look_inside.py": (),
    "parity/test_prompts.py": (),
    "parity/test_vae_tiny.py": (),
    "runtime/test_compilation_cache.py": (),
    "tasks/test_ablations.py": (
        *(
            "test_ablations_has_every_variant",
            "test_ablations_get_config_lists_the_variants_to_an_unknown_one",
            "test_ablations_header_says_what_each_variant_is",
            "test_ablations_get_config_takes_the_records_folder",
        ),
    ),
    "test_cases.py": (),
    "test_export.py": (),
    "test_pipeline.py": (),
    "test_pipeline_many.py": (),
    "training/test_best_step.py": (
        *("test_best_step_is_the_first_of_the_greatest_and_ends_after_as_many_worse_ones",),
        "test_train_refuses_an_unknown_set_to_choose_by",
    ),
    "training/test_calibration.py": ("test_evaluation_refuses_sets_that_do_not_fit",),
    "training/test_compiled_step.py": (),
    "training/test_crash.py": (),
    "training/test_loop.py": (
        *("test_train_leaves_everything_a_user_expects", "test_train_resumes_bit_for_bit"),
        *(
            "test_train_neither_changes_nor_stores_the_frozen_networks",
            "test_train_refuses_a_bad_config_in_one_clear_line",
        ),
        *("test_make_train_step_gives_the_same_losses_on_every_mesh[ldis1-meshes0]",),
    ),
    "training/test_profiling.py": (),
    "training/test_programs.py": (),
    "weights/test_card.py": (),
    "weights/test_checkpoint_export.py": (),
    "weights/test_lora_files.py": (
        "test_open_lora_refuses_metadata_that_cannot_be_honoured",
        "test_open_lora_refuses_strange_json_in_the_header",
    ),
    "weights/test_named_models.py": (),
    "weights/test_shipped.py": (),
}
# Slow tests of files that are fast otherwise.
SLOW_TESTS: dict[str, tuple[str, ...]] = {
    "costs/test_search.py": ("test_search_compiles_with_the_real_compiler",),
    "data/test_build_command.py": ("test_build_that_is_killed_leaves_nothing_that_counts",),
    "data/test_builders.py": ("test_builder_workers_change_nothing",),
    "demo/test_requests.py": (
        *("test_segment_shows_every_step_of_ldisn", "test_segment_gives_the_pipelines_mask_of_one_class"),
        "test_segment_puts_prompts_together_by_class_name",
    ),
    "diffusion/test_sampler.py": (
        "test_sample_is_diffusers_at_every_step",
        "test_sample_finds_the_data_with_a_perfect_network",
    ),
    "docs/test_evidence.py": ("test_sweep_runs_a_variant_once",),
    "docs/test_examples.py": ("test_faq_service_answers_an_upload_with_a_mask",),
    "docs/test_pages.py": ("test_finetune_page_commands_work_in_order_as_they_stand",),
    "evaluation/test_benchmark.py": (
        *(
            "test_evaluate_goes_on_to_the_same_report_when_it_was_cut_off",
            "test_evaluate_gives_the_same_whatever_the_batch_size",
        ),
        "test_evaluate_writes_the_report_alone_to_a_pipe",
        *(
            "test_evaluate_images_gives_copy_prompt_the_figure_of_hsnets_own_code",
            "test_image_figures_have_intervals_that_cover_as_they_say",
        ),
    ),
    "evaluation/test_video_benchmark.py": (
        "test_evaluate_of_videos_writes_a_report_and_goes_on_when_it_was_cut_off",
        "test_evaluate_videos_counts_several_objects_a_video_of_davis_2017",
    ),
    "input_pipeline/test_loader.py": ("test_train_loader_left_open_lets_the_interpreter_exit",),
    "models/test_convolution.py": (
        "test_conv_can_be_exported_for_any_batch",
        "test_conv_is_a_convolution_on_other_platforms",
        "test_upsample2d_gives_the_convolution_of_the_upsampled_image",
        "test_conv_gives_the_same_by_every_way",
    ),
    "models/test_efficientnet.py": (
        *("test_describe_query_does_not_read_padding", "test_describe_query_stays_finite_for_a_prompt_without_object"),
        *(
            "test_efficientnet_alpha_is_the_mean_over_a_token",
            "test_describe_query_tells_what_resembles_the_object_from_the_rest",
        ),
    ),
    "models/test_lora.py": (
        *(
            "test_lora_has_the_parameter_counts_of_diffusers_at_sd15_size",
            "test_lora_makes_no_gradient_of_a_frozen_kernels_size",
        ),
        *("test_lora_has_the_outputs_and_gradients_of_torch", "test_write_lora_writes_a_file_that_peft_reads"),
    ),
    "models/test_unet.py": ("test_unet_branches_read_what_they_would_alone",),
    "parity/test_parity.py": (
        "test_parity_with_live_torch",
        *(
            f"test_parity_with_golden_results_of_torch[R/{name}/2]"
            for name in ("added", "noised", "pre", "post", "none")
        ),
        *(
            f"test_parity_with_golden_results_of_torch[R/ldisn/{sampler}]"
            for sampler in ("ddim/1", "ddim/3", "ddpm/1", "ddpm/3")
        ),
        *(
            f"test_parity_with_golden_results_of_torch[loss/{name}]"
            for name in ("pixel", "perturbed", "added", "noised", "ldisn_perturbed")
        ),
        *(
            "test_parity_with_golden_results_of_torch[R/ldis1/3]",
            "test_parity_with_golden_results_of_torch[R/plain/3]",
            "test_parity_with_golden_results_of_torch[loss/ldisn]",
            "test_parity_with_golden_results_of_torch[gradient/ldisn]",
        ),
        *("test_parity_with_golden_results_of_torch[gradient/pixel]", "test_instruction_tokens_have_torchs_mask"),
    ),
    "parity/test_tasks.py": (
        *("test_ldisn_draws_from_each_querys_own_key", "test_predict_does_not_depend_on_neighbours_in_the_batch"),
        "test_ldisn_options_override_the_tasks_defaults",
    ),
    "tasks/test_variants.py": (
        "test_ldis1_predict_draws_noise_from_each_querys_own_key",
        "test_autoencoder_kl_decode_with_remat_keeps_the_gradient_and_saves_memory",
    ),
    "test_commands.py": (
        *("test_finetune_takes_its_task_from_the_model_folder", "test_segment_writes_mask_and_overlay"),
        *(
            "test_segment_exits_with_2_and_one_line_after_bad_input[change6-broken.png]",
            "test_main_stops_waiting_for_other_hosts",
        ),
        "test_main_exits_as_training_ended",
    ),
    "support/test_cli.py": ("test_cli_run_works_for_a_user_without_home_and_name",),
    "test_segment.py": ("test_segment_compiles_for_one_image_while_weights_are_read",),
    "training/test_checkpoint.py": (
        *(
            "test_checkpoints_restore_the_one_before_a_damaged_newest_one",
            "test_checkpoints_of_eight_devices_are_restored_on_fewer",
        ),
        "test_checkpoints_notice_a_flipped_bit_or_take_no_harm",
    ),
    "training/test_step.py": (
        *(
            "test_make_train_step_accumulates_the_mean_gradient_of_the_parts",
            "test_make_train_step_gives_the_same_numbers_with_remat",
        ),
        *(
            "test_make_train_step_with_bfloat16_gradients_keeps_float32_masters",
            "test_make_train_step_keeps_the_average_of_parameters",
        ),
        "test_make_train_step_draws_apart_for_the_parts_of_a_batch",
    ),
    "weights/test_clip.py": (
        *(
            "test_open_prompt_encoder_reads_every_source_alike",
            "test_open_prompt_encoder_gives_the_tokens_of_transformers",
            "test_open_prompt_encoder_refuses_unknown_and_lora_tensors",
        ),
    ),
    "weights/test_diffusers_files.py": (
        *(
            "test_diffusers_files_predict_our_r[ldis1-3-changes1]",
            "test_diffusers_files_predict_our_r[ldisn-3-changes2]",
            "test_diffusers_files_predict_our_r[ldisn-1-changes3]",
        ),
        "test_diffusers_files_predict_our_r_where_the_encoder_describes_the_query",
        "test_diffusers_files_take_images_of_any_size",
    ),
    "weights/test_hub.py": ("test_resolve_fetches_a_model_that_loads", "test_resolve_reads_the_cache_without_the_hub"),
    "weights/test_model_folder.py": (
        *(
            "test_save_model_then_load_model_keeps_bfloat16",
            "test_load_model_refuses_spoiled_tensors",
            "test_save_model_then_load_model_is_exact",
        ),
        "TestTrainingInit",
    ),
    "weights/test_rules.py": (
        *(
            "test_initialise_draws_fresh_parameters",
            "test_release_free_memory_returns_memory_between_what_stays",
            "test_fill_gives_back_exactly_what_to_torch_gave",
        ),
    ),
    "weights/test_stable_diffusion.py": (
        "test_open_stable_diffusion_reads_every_form_of_a_diffusers_folder",
        "TestPapersCheckpoints",
    ),
    "weights/test_torch_files.py": ("test_open_file_refuses_spoiled_files_in_one_line_and_runs_nothing[zip bomb]",),
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
