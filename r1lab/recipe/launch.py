"""On what a stage runs: so far one process, with one GPU."""


def problem(gpus: int) -> str:
    """Why a stage cannot run on so many GPUs; empty if it can.

    A training whose batch silently were that of one process would not be the recipe's. Evaluations and sample stages
    have no `launch` section.

    >>> problem(1)
    ''
    """
    if gpus == 1:
        return ""
    return (
        f"{gpus} GPUs: a run starts one process so far, which would have a batch {gpus} times as small: set "
        f"launch.gpus: 1, and train.gradient_accumulation_steps {gpus} times as high for the same update"
    )
