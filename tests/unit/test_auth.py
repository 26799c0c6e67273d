import base64
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from server.auth import (
    AccessDenied,
    Credentials,
    JwtAuthenticator,
    check_secret,
    read_authorization,
    read_public_key,
    read_subprotocols,
)

SECRET = "0123456789abcdef0123456789abcdef"
OTHER_SECRET = "fedcba9876543210fedcba9876543210"


def make_token(secret: Any = SECRET, algorithm: str = "HS256", **claims: object) -> str:
    """Return a token that is good, but for what is given; None leaves a claim out."""
    said = {"sub": "ada", "exp": time.time() + 60} | claims
    return jwt.encode({name: value for name, value in said.items() if value is not None}, secret, algorithm=algorithm)


def make_authenticator(**options: Any) -> JwtAuthenticator:
    return JwtAuthenticator(SECRET, ["HS256"], **{"audience": None, "skew_s": 0.0} | options)


def find_refusal(authenticator: JwtAuthenticator, token: str | None) -> AccessDenied:
    with pytest.raises(AccessDenied) as refusal:
        authenticator.authenticate(token)
    assert refusal.value.code == "unauthenticated"
    return refusal.value


# Tokens


def test_token_names_its_user_and_its_end() -> None:
    end_s = round(time.time()) + 60
    credentials = make_authenticator(skew_s=5.0).authenticate(make_token(exp=end_s))
    assert credentials == Credentials(user_id="ada", expires_at_s=end_s + 5)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": None}, "token: lacks exp"),
        ({"sub": None}, "token: lacks sub"),
        ({"sub": "ada:eliza"}, "token: its sub must match"),
        ({"sub": ""}, "token: its sub must match"),
        ({"sub": 7}, "token: its sub must be a text"),
        ({"sub": "ada\n"}, "token: its sub must match"),
        ({"nbf": 4_000_000_000}, "token: is not valid yet"),
        ({"aud": "somebody-else"}, "token: its aud"),
        ({"exp": "soon"}, "token: is no JSON Web Token"),
        ({"exp": 1e400}, "token: is no JSON Web Token"),
    ],
    ids=str,
)
def test_claim_that_does_not_do_is_named(claims: dict[str, Any], words: str) -> None:
    assert str(find_refusal(make_authenticator(), make_token(**claims))).startswith(words)


def test_expired_token_is_told_from_a_wrong_one() -> None:
    assert find_refusal(make_authenticator(), make_token(exp=time.time() - 2)).is_expired
    assert not find_refusal(make_authenticator(), make_token(OTHER_SECRET, exp=time.time() - 2)).is_expired


def test_skew_is_allowed_for() -> None:
    token = make_token(exp=time.time() - 2)
    assert make_authenticator(skew_s=30.0).authenticate(token).user_id == "ada"


@pytest.mark.parametrize("audience", ["callboard", ["other", "callboard"]], ids=str)
def test_audience_must_be_ours(audience: object) -> None:
    authenticator = make_authenticator(audience="callboard")
    assert authenticator.authenticate(make_token(aud=audience)).user_id == "ada"
    assert "aud" in str(find_refusal(authenticator, make_token(aud="other")))
    assert "aud" in str(find_refusal(authenticator, make_token()))


def test_unsigned_token_is_none() -> None:
    head, body, _ = make_token().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    unsigned = f"{head}.{body}."
    assert "algorithm" in str(find_refusal(make_authenticator(), unsigned))


def test_other_secret_is_none_of_ours() -> None:
    assert "signature" in str(find_refusal(make_authenticator(), make_token(OTHER_SECRET)))


def test_public_key_is_no_secret() -> None:
    """Whoever has the public key must not be able to sign with it as if it were a secret (RFC 8725, section 2.1)."""
    pem = write_public(rsa.generate_private_key(65537, 2048))
    authenticator = JwtAuthenticator(*read_public_key(pem), audience=None, skew_s=0.0)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    body = make_token().split(".")[1].encode()
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(signer.sign(head + b"." + body, pem)).rstrip(b"=")
    assert "algorithm" in str(find_refusal(authenticator, b".".join((head, body, signature)).decode()))


@given(st.text(max_size=200))
def test_garbage_is_refused_without_being_repeated(text: str) -> None:
    refusal = find_refusal(make_authenticator(), text)
    assert str(refusal) == "token: is no JSON Web Token that can be used here"


@given(st.integers(min_value=0, max_value=300), st.characters(min_codepoint=33, max_codepoint=126))
def test_changed_token_is_refused(position: int, character: str) -> None:
    token = make_token(exp=4_000_000_000)
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    head, _, tail = token.rpartition(".")
    if changed != token and position < len(head) + len(tail):  # the last character has bits that mean nothing
        find_refusal(make_authenticator(), changed)


def test_nested_header_is_refused() -> None:
    head = base64.urlsafe_b64encode(b"[" * 30_000).decode().rstrip("=")
    find_refusal(make_authenticator(), f"{head}.e30.AAAA")


def test_missing_token_says_where_it_belongs() -> None:
    assert "Authorization: Bearer" in str(find_refusal(make_authenticator(), None))


# Users


def test_user_is_the_token_s_whatever_is_claimed() -> None:
    credentials = Credentials(user_id="ada")
    assert [credentials.choose_user(claimed) for claimed in (None, "ada")] == ["ada", "ada"]
    with pytest.raises(AccessDenied, match=r"^userId: ") as refusal:
        credentials.choose_user("bob")
    assert refusal.value.code == "forbidden"


def test_without_authentication_everybody_is_believed() -> None:
    credentials = Credentials()
    assert [credentials.choose_user(claimed) for claimed in (None, "bob")] == ["local", "bob"]
    assert credentials.expires_at_s is None


# Where tokens are


@pytest.mark.parametrize("header", ["Bearer a.b-c_d", "bearer a.b-c_d", "BEARER  a.b-c_d "])
def test_token_is_in_the_header(header: str) -> None:
    assert read_authorization(header) == "a.b-c_d"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer é", "a.b.c"])
def test_header_of_another_kind_is_refused(header: str) -> None:
    with pytest.raises(AccessDenied, match=r"^Authorization: must be `Bearer TOKEN`$"):
        read_authorization(header)


@given(st.text(min_size=1))
def test_token_is_among_the_subprotocols(token: str) -> None:
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    assert read_subprotocols(["callboard.v1", f"bearer.{encoded}"]) == token


def test_no_token_is_none() -> None:
    assert read_authorization(None) is None
    assert read_subprotocols(["callboard.v1"]) is None


@pytest.mark.parametrize("names", [["bearer.YQ", "bearer.Yg"], ["bearer.Y"], ["bearer._w"], ["bearer.Y+Q"]], ids=str)
def test_subprotocol_that_is_no_token_is_refused(names: list[str]) -> None:
    with pytest.raises(AccessDenied, match=r"^Sec-WebSocket-Protocol: "):
        read_subprotocols(names)


# Keys


def write_public(private: Any) -> bytes:
    return bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(
    ("make_key", "algorithms"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), ["RS256", "PS256"]),
        (lambda: ec.generate_private_key(ec.SECP256R1()), ["ES256"]),
        (lambda: ec.generate_private_key(ec.SECP384R1()), ["ES384"]),
        (ed25519.Ed25519PrivateKey.generate, ["EdDSA"]),
    ],
    ids=["RSA", "P-256", "P-384", "Ed25519"],
)
def test_public_key_verifies_what_its_private_key_signed(make_key: Callable[[], Any], algorithms: list[str]) -> None:
    key, others = make_key(), make_key()
    authenticator = JwtAuthenticator(*read_public_key(write_public(key)), audience=None, skew_s=0.0)
    for algorithm in algorithms:
        assert authenticator.authenticate(make_token(key, algorithm)).user_id == "ada"
        assert "signature" in str(find_refusal(authenticator, make_token(others, algorithm)))


@pytest.mark.parametrize(
    ("make_pem", "words"),
    [
        (lambda: b"", "expected a public key in PEM"),
        (lambda: b"\xff\x00", "expected a public key in PEM"),
        (lambda: write_public(rsa.generate_private_key(65537, 1024)), "expected RSA of at least 2048 bits"),
        (lambda: write_public(ec.generate_private_key(ec.SECP521R1())), "expected RSA of at least 2048 bits"),
        (lambda: write_public(dsa.generate_private_key(2048)), "expected RSA of at least 2048 bits"),
        (
            lambda: ed25519.Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "expected the public key",
        ),
    ],
    ids=["empty", "bytes", "RSA 1024", "P-521", "DSA", "private"],
)
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_key_that_does_not_do_is_refused(make_pem: Callable[[], bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_public_key(make_pem())


@pytest.mark.parametrize(
    "secret", ["", "x" * 31, "é" * 15, write_public(ed25519.Ed25519PrivateKey.generate()).decode()]
)
def test_weak_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_secret(secret)


def test_secret_counts_in_bytes() -> None:
    assert check_secret("é" * 16) == "é" * 16
