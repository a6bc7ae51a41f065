"""Where devices are found."""

from hypothesis import HealthCheck, given, settings
from lxml import etree

from vmferryd.domains import definition
from vmferryd.domains.locating import locate

from .strategies import definitions


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(definitions())
def test_each_path_finds_exactly_one_element(original):
    """A device's path is a real XPath into its own document, and no two devices share one."""
    root = etree.fromstring(definition.format(original))
    paths = [xpath for xpath, _ in locate(original.devices)]
    assert len(paths) == len(set(paths))
    assert [1] * len(paths) == [len(root.xpath(path)) for path in paths]
