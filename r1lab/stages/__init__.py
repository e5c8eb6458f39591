"""The stages `sft`, `grpo`, `sample` and `eval`: each a module with `run(recipe, run_dir)`."""
