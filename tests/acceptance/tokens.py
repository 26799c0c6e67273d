"""What the servers of the tests that want tokens are given, and tokens for them."""

import time
from typing import Any

import jwt

SECRET = "0123456789abcdef0123456789abcdef"
ORIGIN = "https://chat.example"
MAX_PER_USER = 2


def make_token(user_id: str = "ada", lifetime_s: float = 600.0, secret: Any = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode({"sub": user_id, "exp": time.time() + lifetime_s}, secret, algorithm=algorithm)


def bear(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
