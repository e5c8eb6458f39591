"""The GRPO trainer: TRL's, with r1lab's engines and grader under it."""
