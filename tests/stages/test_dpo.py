"""What direct preference optimisation trains on."""

import pytest

from r1lab.errors import UserError
from r1lab.stages import dpo


def test_pairs_of_the_same_text_are_left_out_and_counted(tmp_path):
    rows = [{"prompt": "?", "chosen": "4", "rejected": "5"}, {"prompt": "?", "chosen": "4", "rejected": "4"}]
    assert dpo._that_differ(rows, tmp_path) == rows[:1]
    said = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "1 of 2 pairs have equal chosen and rejected and were left out, the first in row 2" in said
    with pytest.raises(UserError, match="equal in all 1 rows"):
        dpo._that_differ(rows[1:], tmp_path)
