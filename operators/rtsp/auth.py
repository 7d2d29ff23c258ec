"""Who may watch: RTSP Basic and Digest (RFC 2617, MD5 without qop: what cameras' clients speak).

Invariant: a password is compared in constant time and never told. Digest keeps it off the wire, not the picture: RTSP is not encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets

REALM = "afterimage"
_PAIR = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,"]+))')


class Guard:
    """Checks `user` and `password`. One per server; a nonce lives as long as its connection."""

    def __init__(self, user: str, password: str) -> None:
        self.user, self.password = user, password

    def nonce(self) -> str:
        return secrets.token_hex(16)

    def challenge(self, nonce: str) -> dict[str, str]:
        """The header that asks for credentials: Digest; a client that knows only Basic may answer so all the same."""
        return {"WWW-Authenticate": f'Digest realm="{REALM}", nonce="{nonce}", algorithm="MD5"'}

    def admits(self, header: str, method: str, nonce: str) -> bool:
        """Whether the Authorization `header` of a request is right."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(rest.strip(), validate=True)
            except (binascii.Error, ValueError):
                return False
            return hmac.compare_digest(given, f"{self.user}:{self.password}".encode())
        if scheme.lower() != "digest":
            return False
        facts = {name.lower(): quoted or plain for name, quoted, plain in _PAIR.findall(rest)}
        if facts.get("nonce") != nonce or facts.get("username") != self.user or facts.get("realm") != REALM:
            return False
        secret = _md5(f"{self.user}:{REALM}:{self.password}")
        about = _md5(f"{method}:{facts.get('uri', '')}")
        wanted = _md5(f"{secret}:{nonce}:{about}")
        return hmac.compare_digest(wanted.encode(), facts.get("response", "").encode())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
