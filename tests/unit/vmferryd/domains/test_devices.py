"""The nouns of devices."""

from vmferryd.domains.devices import DriveAddress, PciAddress, UsbAddress, VirtioSerialAddress


def test_addresses_are_spelled_as_usual():
    """The way tools print them."""
    addresses = [PciAddress(0, 1, 31, 2), DriveAddress(1, 0, 2, 3), VirtioSerialAddress(0, 0, 4), UsbAddress(0, "1.2")]
    assert ["0000:01:1f.2", "1-0-2-3", "0-0-4", "0-1.2"] == [str(address) for address in addresses]
