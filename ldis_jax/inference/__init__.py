"""Images and prompts in, masks out: what lies under the pipeline."""
