"""All attacks by name. Importing this module fills `ATTACKS`."""

from tests.hostile import control_attacks, crowd_attacks, data_attacks, rule_attacks
from tests.hostile.attack import ATTACKS, Attack, Scene

__all__ = ["ATTACKS", "Attack", "Scene", "control_attacks", "crowd_attacks", "data_attacks", "rule_attacks"]
