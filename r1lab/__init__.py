"""r1lab: DeepSeek-R1-Zero and R1 on hardware that people have, with results that can be believed."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout, rewards/, data/ and recipes/ lie beside this folder (see package-dir in pyproject.toml).
_ROOT = Path(__file__).parent.parent
if (_ROOT / "pyproject.toml").is_file():
    __path__.append(str(_ROOT))
