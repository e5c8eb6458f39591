"""On-policy distillation: a grpo stage whose trainer has a teacher."""

from pathlib import Path

from r1lab.errors import UserError
from r1lab.grpo.distillation import DistillTrainer
from r1lab.grpo.teacher_server import ServedTeacher
from r1lab.models import loading
from r1lab.recipe.schema import DistillRecipe
from r1lab.stages import grpo
from r1lab.stages.common import doing, load_tokenizer


def run(recipe: DistillRecipe, run_dir: Path) -> int:
    """Trains the student on its own completions, at each token of which it learns from the teacher.

    Raises:
        UserError: The teacher has other tokens than the student, or cannot share its base.
    """
    teacher, tokenizer = recipe.teacher, load_tokenizer(recipe)
    hub = {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
    if teacher.share_base:
        why = loading.unshared(teacher.path, recipe.model.path, recipe.model.revision)
    else:
        why = loading.other_tokens(tokenizer, loading.load_tokenizer(teacher.path, **hub))
    if why:
        raise UserError(f"teacher.path: {teacher.path}: {why}")

    def make(**settings) -> DistillTrainer:
        settings["settings"] = recipe.distill
        if teacher.share_base:
            return DistillTrainer(teacher=teacher.path, **settings)
        if teacher.url:
            return DistillTrainer(teacher=ServedTeacher(teacher.url, teacher.path), **settings)
        doing(run_dir, "loading the teacher")
        attention = teacher.attn_implementation
        model = loading.load_model(teacher.path, dtype=teacher.dtype, attn_implementation=attention, **hub)
        return DistillTrainer(teacher=model, **settings)

    return grpo.run(recipe, run_dir, make, tokenizer)
