"""The nouns that are not devices."""

import pytest

from vmferryd.domains.model import Architecture, Chipset, CpuTopology, OperatingSystem


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("pc", Chipset.I440FX),
        ("pc-i440fx-8.2", Chipset.I440FX),
        ("q35", Chipset.Q35),
        ("pc-q35-rhel9.4.0", Chipset.Q35),
        ("pc-q35-", None),
        ("microvm", None),
        ("pcx", None),
    ],
)
def test_a_machine_belongs_to_a_family(machine, expected):
    """By its short name or the prefix of its versions."""
    assert expected is Chipset.of_machine(machine)


def test_an_unknown_machine_has_no_chipset():
    """A definition made by hand can have one; asking for its chipset is a mistake."""
    with pytest.raises(ValueError, match="microvm"):
        _ = OperatingSystem(architecture=Architecture.X86_64, machine="microvm").chipset


def test_a_topology_is_a_product():
    """Sockets times dies times cores times threads."""
    assert 24 == CpuTopology(sockets=2, dies=3, cores=2, threads=2).vcpus
