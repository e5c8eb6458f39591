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
        UserError: The teacher has other tokens than the student.
    """
    teacher = recipe.teacher
    hub = {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
    if other := loading.other_tokens(load_tokenizer(recipe), loading.load_tokenizer(teacher.path, **hub)):
        raise UserError(f"teacher.path: {teacher.path}: {other}")

    def make(**settings) -> DistillTrainer:
        if teacher.url:
            served = ServedTeacher(teacher.url, teacher.path)
            return DistillTrainer(teacher=served, settings=recipe.distill, **settings)
        doing(run_dir, "loading the teacher")
        attention = teacher.attn_implementation
        model = loading.load_model(teacher.path, dtype=teacher.dtype, attn_implementation=attention, **hub)
        return DistillTrainer(teacher=model, settings=recipe.distill, **settings)

    return grpo.run(recipe, run_dir, make)
