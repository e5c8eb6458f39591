"""The stages `sft`, `grpo`, `distill`, `sample`, `eval`, `dpo` and `reward`: modules with `run(recipe, run_dir)`."""
