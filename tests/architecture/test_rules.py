"""Every rule that is claimed has a test that bears its number."""

from __future__ import annotations

from tests.lib.rules import claimed, proven


def test_every_claimed_rule_is_proven_by_a_test_of_its_number() -> None:
    missing = sorted(set(claimed()) - proven())
    assert missing == [], f"{len(missing)} of {len(claimed())} claimed rules have no test"
