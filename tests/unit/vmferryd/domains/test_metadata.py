"""Metadata in the document."""

import pytest

from .documents import parsed, refused_parts


def test_prefixes_declared_outside_are_kept():
    """An element taken from its document still has the namespaces it needs."""
    guest = parsed(general="<metadata xmlns:x='urn:x'><x:a><x:b/></x:a></metadata>")
    assert ('<x:a xmlns:x="urn:x"><x:b></x:b></x:a>',) == guest.metadata


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("<plain/>", ["/domain/metadata/plain"]),
        ("<x:a xmlns:x='urn:x'/><x:b xmlns:x='urn:x'/>", ["/domain/metadata/x:b"]),
        ("<v:other xmlns:v='urn:vmferry:test:1'/>", ["/domain/metadata/v:other"]),
        ("<v:test xmlns:v='urn:vmferry:test:1' speed='1'/>", ["/domain/metadata/v:test/@speed"]),
        ("<v:test xmlns:v='urn:vmferry:test:1' boot-time-ms='x'/>", ["/domain/metadata/v:test/@boot-time-ms"]),
        ("text", ["/domain/metadata/text()"]),
    ],
)
def test_what_libvirt_would_drop_is_refused(metadata, expected):
    """Elements without a namespace, a second one of a namespace, and unknown settings of ours."""
    assert expected == refused_parts(general=f"<metadata>{metadata}</metadata>", type="test")
