"""Dataset builders. Import them as `r1lab.data`."""

if __name__ != "r1lab.data":  # one module, one name
    raise ImportError("import r1lab.data, not data")

from r1lab.data.attempts import knights_knaves_attempts
from r1lab.data.knights_knaves import knights_knaves
from r1lab.data.logic_rl import logic_rl
from r1lab.data.rows import rows

__all__ = ["knights_knaves", "knights_knaves_attempts", "logic_rl", "rows"]
