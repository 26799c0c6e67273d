"""Who a client is, by its credentials. Pure: keys and tokens in, user ids out.

Credentials are a JSON Web Token (RFC 7519), made by whoever runs the product that Callboard serves, with the claims
`sub` (the user's id), `exp`, and `aud` where an audience is configured. Where no key is configured everybody is who
they say they are; such a server listens on loopback only (`server.config`).
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
import jwt.algorithms
import jwt.exceptions
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from server.frames import KEY_PART

DEFAULT_USER: Final = "local"
"""Who it is that does not say, where nobody has to prove it."""

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: a key of HS256 has at least the 256 bits of its hash."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518, section 3.3."""

BEARER: Final = "bearer."
"""What a subprotocol begins with that carries a token in base64url: browsers can set no header."""

AUTHORIZATION = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.ASCII | re.IGNORECASE)
"""RFC 6750, section 2.1."""


class AccessDenied(Exception):
    """Raised when somebody may not come in; the text says why, and holds nothing of the token.

    Attributes:
        code: `unauthenticated`, `forbidden`, `rate_limited` (too many connections of this user), `overloaded` (of all).
        is_expired: True if the same user's next token will do.
    """

    def __init__(self, code: str, message: str, *, is_expired: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_expired = is_expired


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is known of somebody.

    Attributes:
        user_id: Who it is; None for whoever it says.
        expires_at_s: Until when, in seconds since 1970, with the skew that is allowed for; None for ever.
    """

    user_id: str | None = None
    expires_at_s: float | None = None

    def choose_user(self, claimed: str | None) -> str:
        """Return the user's id.

        Args:
            claimed: Who the request says it is; None if it does not say.

        Raises:
            AccessDenied: `forbidden`, if the credentials are another one's.
        """
        if self.user_id is None:
            return claimed if claimed is not None else DEFAULT_USER
        if claimed not in (None, self.user_id):
            raise AccessDenied("forbidden", "userId: must be that of the credentials, or left out")
        return self.user_id


class JwtAuthenticator:
    """Believes who was given a token.

    Args:
        key: What verifies a signature: a secret, or a public key.
        algorithms: Those that go with it. A token cannot choose any other one.
        audience: What `aud` must be, or hold; None for tokens without `aud`.
        skew_s: How far the clocks may be apart.
    """

    def __init__(self, key: Any, algorithms: Sequence[str], *, audience: str | None, skew_s: float) -> None:
        self._key = key
        self._algorithms = list(algorithms)
        self._audience = audience
        self._skew_s = skew_s

    def authenticate(self, token: str | None) -> Credentials:
        """Return what a token says; None for none.

        Raises:
            AccessDenied: `unauthenticated`.
        """
        if token is None:
            words = (
                "token: is required, as `Authorization: Bearer TOKEN`, or as a subprotocol `bearer.` and its base64url"
            )
            raise AccessDenied("unauthenticated", words)
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                leeway=self._skew_s,
                options={"require": ["exp", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise AccessDenied("unauthenticated", "token: has expired", is_expired=True) from error
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise AccessDenied("unauthenticated", f"token: {explain(error)}") from error
        user_id = claims["sub"]
        if not KEY_PART.fullmatch(user_id):
            raise AccessDenied("unauthenticated", "token: its sub must match [A-Za-z0-9_-]{1,128}")
        return Credentials(user_id=user_id, expires_at_s=float(claims["exp"]) + self._skew_s)


def explain(error: Exception) -> str:
    """Say what is wrong with a token, in words that hold nothing of it."""
    match error:
        case jwt.MissingRequiredClaimError():
            return f"lacks {error.claim}"
        case jwt.InvalidSignatureError():
            return "its signature is not that of the key configured here"
        case jwt.InvalidAlgorithmError():
            return "is signed with an algorithm that does not go with the key configured here"
        case jwt.InvalidAudienceError():
            return "its aud is not the audience configured here"
        case jwt.ImmatureSignatureError():
            return "is not valid yet"
        case jwt.exceptions.InvalidSubjectError():
            return "its sub must be a text"
        case _:
            return "is no JSON Web Token that can be used here"


def check_secret(text: str) -> str:
    """Return a secret that is long enough to sign with, and no key of another kind by mistake.

    Raises:
        ValueError: If it is none.
    """
    if len(text.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"expected at least {MIN_SECRET_BYTES} bytes, as of `openssl rand -hex 32`")
    try:
        jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).prepare_key(text)
    except jwt.InvalidKeyError as error:
        raise ValueError("expected a secret; a public key belongs into a file of its own") from error
    return text


def read_public_key(pem: bytes) -> tuple[Any, list[str]]:
    """Return a key that verifies signatures, and the algorithms that go with it.

    Raises:
        ValueError: If it is none.
    """
    if b"PRIVATE KEY" in pem:
        raise ValueError("expected the public key; the private one stays with whoever makes the tokens")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("expected a public key in PEM: -----BEGIN PUBLIC KEY-----") from error
    match key:
        case RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return key, ["RS256", "PS256"]
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return key, ["ES256"]
        case EllipticCurvePublicKey(curve=SECP384R1()):
            return key, ["ES384"]
        case Ed25519PublicKey():
            return key, ["EdDSA"]
        case _:
            raise ValueError(f"expected RSA of at least {MIN_RSA_BITS} bits, EC P-256 or P-384, or Ed25519")


def read_authorization(header: str | None) -> str | None:
    """Return the token in an `Authorization` header; None if there is no header.

    Raises:
        AccessDenied: `unauthenticated`, if it is of another kind.
    """
    if header is None:
        return None
    found = AUTHORIZATION.fullmatch(header)
    if found is None:
        raise AccessDenied("unauthenticated", "Authorization: must be `Bearer TOKEN`")
    return found[1]


def read_subprotocols(offered: Sequence[str]) -> str | None:
    """Return the token among the subprotocols that a client offers; None if there is none.

    Raises:
        AccessDenied: `unauthenticated`, if there are several, or one that cannot be read.
    """
    found = [name.removeprefix(BEARER) for name in offered if name.startswith(BEARER)]
    if len(found) > 1:
        raise AccessDenied("unauthenticated", "Sec-WebSocket-Protocol: has several tokens")
    try:
        return (
            base64.b64decode(found[0] + "=" * (-len(found[0]) % 4), altchars=b"-_", validate=True).decode()
            if found
            else None
        )
    except (binascii.Error, ValueError) as error:
        raise AccessDenied(
            "unauthenticated", "Sec-WebSocket-Protocol: bearer. must be followed by base64url"
        ) from error
