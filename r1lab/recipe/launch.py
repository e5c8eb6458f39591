"""The processes and GPUs of a stage: so far one process, with one GPU."""


def problem(gpus: int) -> str:
    """Why a stage cannot run on this number of GPUs; empty if it can.

    The batch of one process is smaller than the recipe's, so training must not silently start with it. Evaluations and
    sample stages have no `launch` section.

    >>> problem(1)
    ''
    """
    if gpus == 1:
        return ""
    return (
        f"{gpus} GPUs: a run starts only one process so far, so its batch would be {gpus} times smaller: set "
        f"launch.gpus: 1, and train.gradient_accumulation_steps {gpus} times as high for the same update"
    )
