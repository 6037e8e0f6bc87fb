"""The policies by the names that `scheduler.policy` of the configuration allows."""

from __future__ import annotations

from bros.brosd.config import PolicyName
from bros.brosd.scheduling.policies import Fcfs, Policy, Priority, RoundRobin, Tgi
from bros.brosd.scheduling.slo_policy import SloPolicy

POLICIES: dict[PolicyName, type[Policy]] = {
    "bros": SloPolicy,
    "fcfs": Fcfs,
    "priority": Priority,
    "round-robin": RoundRobin,
    "tgi": Tgi,
}
