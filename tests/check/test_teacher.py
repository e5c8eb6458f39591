"""`check` says whether a teacher's tokens are those of the student."""

from r1lab.models.loading import load_tokenizer, other_tokens


def test_a_teacher_with_other_tokens_is_an_error_in_one_line(found, grpo):
    lines = found(grpo(stage="distill", teacher={"path": "embedded:tiny-llama"}))
    [line] = [line for line in lines if "teacher" in line]
    assert line.startswith("error   r.yaml:1: teacher.path: embedded:tiny-llama: ")
    assert "of the student's" in line and line.endswith("or distill by sample and sft stages")


def test_a_teacher_may_have_more_tokens(model):
    student, teacher = (load_tokenizer("embedded:tiny-qwen2") for _ in range(2))
    assert other_tokens(student, teacher) is None
    teacher.add_tokens(["<think-more>"])
    assert other_tokens(student, teacher) is None
    said = other_tokens(teacher, student)
    assert said and said.startswith(f"1 of the student's {len(teacher):,} tokens differ, such as '<think-more>', id ")
    assert "is no token there: use a teacher of the student's family" in said


def test_a_teacher_of_an_earlier_stage_shares_the_base_of_the_student_alone(found, grpo):
    def line(base):
        common = grpo()
        train = common.pop("train")
        zero = {
            "name": "zero",
            "stage": common.pop("stage"),
            "model": {"path": f"embedded:{base}", "lora": {"r": 4}},
            "train": train,
        }
        student = {
            "name": "student",
            "stage": "distill",
            "model": common.pop("model") | {"lora": {"r": 8}},
            "teacher": {"path": "@zero/adapter", "share_base": True},
            "train": train,
        }
        [said] = [line for line in found(common | {"stages": [zero, student]}) if "@zero/adapter" in line]
        return said

    assert "@zero/adapter and the student's adapter have one base in memory" in line("tiny-qwen2")
    refused = line("tiny-llama")
    assert "is an adapter of embedded:tiny-llama, and the student's base is embedded:tiny-qwen2" in refused
    assert refused.startswith("error") and refused.endswith("set model.path of both stages to the same model")
