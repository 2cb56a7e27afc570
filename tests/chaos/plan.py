"""What one trial does: a pure function of its seed, as data."""

import random
from dataclasses import dataclass
from typing import Final

# What may go wrong, and how often each is drawn. `faults.py` does it.
KINDS: Final[dict[str, int]] = {
    "kill_server": 6,
    "kill_below_standby": 6,
    "kill_server_starting": 3,
    "kill_server_and_worker": 3,
    "kill_server_and_spawner": 1,
    "kill_spawner": 2,
    "kill_zygote": 2,
    "kill_worker": 3,
    "stop_server": 2,
    "stop_spawner": 2,
    "stop_zygote": 2,
    "stop_worker": 2,
    "starve_server": 1,
    "starve_spawner": 1,
    "starve_zygote": 1,
    "starve_worker": 2,
    "no_descriptors_server": 2,
    "no_descriptors_spawner": 2,
    "no_forks": 2,
    "fill_state": 2,
    "fill_logs": 2,
    "step_clock": 2,
    "tear_record": 2,
    "plant_records": 2,
    "remove_folder": 2,
    "remove_fifo": 2,
}
MOST_FAULTS: Final = 4
SECONDS: Final = 0.6  # in which the faults begin


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, `at` seconds after all readers have begun, for `seconds` if it passes.

    `target` chooses the channel it is about; `step` are the seconds by which a clock is put forward.
    """

    kind: str
    at: float
    seconds: float
    target: int
    step: int


@dataclass(frozen=True)
class Plan:
    """One trial: so many channels of each sort, what the talkers say, what goes wrong, how long nobody serves."""

    seed: int
    talkers: int
    foreign: int
    churners: int
    pieces: int
    pace: float
    downtime: float
    faults: tuple[Fault, ...]


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    draw = random.Random(seed)
    pieces, pace = draw.choice([(400, 0.002), (200, 0.005), (100, 0.01)])
    return Plan(
        seed=seed,
        talkers=draw.randint(1, 3),
        foreign=draw.randint(0, 1),
        churners=draw.randint(0, 2),
        pieces=pieces,
        pace=pace,
        downtime=round(draw.choice([0.0, draw.uniform(0.0, 0.4)]), 3),
        faults=tuple(sorted((_fault(draw) for _ in range(draw.randint(1, MOST_FAULTS))), key=lambda fault: fault.at)),
    )


def _fault(draw: random.Random) -> Fault:
    [kind] = draw.choices(list(KINDS), weights=list(KINDS.values()))
    return Fault(
        kind=kind,
        at=round(draw.uniform(0.0, SECONDS), 3),
        seconds=round(draw.uniform(0.02, 0.4), 3),
        target=draw.randrange(12),
        step=draw.choice([-86_400, -60, 60, 86_400]),
    )
