"""What a host's folder of certificates has for QEMU."""

from __future__ import annotations

import base64
from decimal import Decimal, localcontext
from pathlib import Path

from support.certificates import certificates_of
from vmferry import pki


def test_the_group_for_qemu_is_the_one_of_rfc_7919(tmp_path: Path) -> None:
    """Its prime is built from the digits of e, as appendix A.1 says, and its generator is 2."""
    lines = (certificates_of("test", tmp_path) / pki.DH_PARAMETERS).read_text().splitlines()
    assert ("-----BEGIN DH PARAMETERS-----", "-----END DH PARAMETERS-----") == (lines[0], lines[-1])
    with localcontext() as context:
        context.prec = 700
        digits_of_e = int(Decimal(1).exp() * 2**1918)
    prime = 2**2048 - 2**1984 + (digits_of_e + 560316) * 2**64 - 1
    integers = b"\x02\x82\x01\x01" + prime.to_bytes(257, "big") + b"\x02\x01\x02"
    assert b"\x30\x82\x01\x08" + integers == base64.b64decode("".join(lines[1:-1]))
