"""Dataset builders. Import them as `r1lab.data`."""

if __name__ != "r1lab.data":  # one module, one name
    raise ImportError("import r1lab.data, not data")

from r1lab.data.arithmetic import arithmetic
from r1lab.data.attempts import knights_knaves_attempts
from r1lab.data.bfcl import bfcl
from r1lab.data.countdown import countdown
from r1lab.data.desk import desk
from r1lab.data.gpqa import gpqa
from r1lab.data.humaneval import humaneval
from r1lab.data.ifeval import ifeval
from r1lab.data.instructions import instructions
from r1lab.data.knights_knaves import knights_knaves
from r1lab.data.knights_knaves_ask import knights_knaves_ask
from r1lab.data.livecodebench import livecodebench
from r1lab.data.logic_rl import logic_rl
from r1lab.data.maths import aime, amc, gsm8k, math, svamp
from r1lab.data.mix import mix
from r1lab.data.mmlu import mmlu
from r1lab.data.number_guess import number_guess
from r1lab.data.olympiadbench import olympiadbench
from r1lab.data.perturbed import knights_knaves_perturbed
from r1lab.data.reasoning_gym import reasoning_gym
from r1lab.data.rows import rows
from r1lab.data.traces import traces
from r1lab.data.transcripts import desk_transcripts, number_guess_transcripts
from r1lab.data.verifiers import verifiers

__all__ = [
    "aime",
    "amc",
    "arithmetic",
    "bfcl",
    "countdown",
    "desk",
    "desk_transcripts",
    "gpqa",
    "gsm8k",
    "humaneval",
    "ifeval",
    "instructions",
    "knights_knaves",
    "knights_knaves_ask",
    "knights_knaves_attempts",
    "knights_knaves_perturbed",
    "livecodebench",
    "logic_rl",
    "math",
    "mix",
    "mmlu",
    "number_guess",
    "number_guess_transcripts",
    "olympiadbench",
    "reasoning_gym",
    "rows",
    "svamp",
    "traces",
    "verifiers",
]
