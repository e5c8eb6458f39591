"""The stages `sft`, `grpo`, `sample`, `eval`, `dpo` and `reward`: each a module with `run(recipe, run_dir)`."""
