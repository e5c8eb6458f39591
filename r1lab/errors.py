"""The one exception that a user sees: one line per problem that says where it is, what is wrong, and what to type."""


class UserError(Exception):
    """The command or the recipe is invalid (exit status 2).

    Args:
        problems: One line, or a list of lines. Each says where (`file:line: key`), what is wrong, and how to fix it.
        status: The exit status of the command: 2 for an invalid command or recipe, 1 for a run that failed.
    """

    def __init__(self, problems: str | list[str], status: int = 2):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.status = status
        super().__init__("\n".join(self.problems))


class MachineError(RuntimeError):
    """This machine lacks the memory or the processes for a task, which therefore has no result.

    It implies nothing about the task: a completion that could not be graded for this reason has no score, not even 0.
    """
