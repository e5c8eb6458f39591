"""The one exception that a user sees: one line a problem, each saying where, what, and what to type next."""


class UserError(Exception):
    """What was asked is wrong (exit status 2).

    Args:
        problems: One line, or a list of lines, each telling where (`file:line: key`), what is wrong, and what to do.
        status: The exit status of the command: 2 for a wrong request, 1 for a run that failed.
    """

    def __init__(self, problems: str | list[str], status: int = 2):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.status = status
        super().__init__("\n".join(self.problems))


class MachineError(RuntimeError):
    """This machine lacks the memory or the processes for a piece of work, which therefore has no result.

    It says nothing of the work: a completion that could not be graded for this reason has no score, not even 0.
    """
