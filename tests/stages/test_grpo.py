"""What the grpo stage does around TRL's trainer."""

import socket

from r1lab.stages.grpo import free_port


def test_two_runs_that_start_together_meet_at_ports_of_their_own():
    ports = {free_port() for _ in range(8)}
    assert len(ports) > 1 and 29500 not in ports  # which TRL gives everyone while it is free
    with socket.socket() as taken:
        taken.bind(("", ports.pop()))
