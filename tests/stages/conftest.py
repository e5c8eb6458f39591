"""What the tests of stages share."""

from contextlib import contextmanager

import pytest

from r1lab.rundir import storage
from tests.stages.several_ranks import make_base, starter


class Killed(BaseException):
    """Ends a stage where a SIGKILL would: nothing catches it."""


@pytest.fixture
def killed_after(monkeypatch):
    """A block that must end by `Killed`, right after the first row of partial.jsonl that `is_last` is true of."""

    @contextmanager
    def block(is_last):
        plain = storage.append_jsonl

        def append(path, row):
            plain(path, row)
            if path.name == "partial.jsonl" and is_last(row):
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(storage, "append_jsonl", append)
            yield

    return block


@pytest.fixture(scope="session")
def start():
    """`start(count, run_dirs, **environment)` of `several_ranks.starter`."""
    with starter() as start:
        yield start


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a small model, its rows and its rewards: `several_ranks.make_base`."""
    return make_base(tmp_path_factory.mktemp("base"))
