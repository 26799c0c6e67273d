"""What all answers share that are for one user."""

from server.auth import AccessDenied, Credentials
from server.gate import Visit, find_gate
from server.json_handler import STATUS_BY_CODE, JsonHandler, Problem, allows_origin


class UserHandler(JsonHandler):
    """Answers those who prove who they are, where that is wanted.

    Attributes:
        credentials: The request's.
    """

    credentials: Credentials

    def prepare(self) -> None:
        """Refuse those who do not, and pages from elsewhere. A browser asks whether it may ask without credentials."""
        super().prepare()
        if self.request.method == "OPTIONS":
            return
        if not allows_origin(self):
            raise Problem(403, "forbidden", "Origin: pages from there are not allowed here")
        try:
            self.credentials = find_gate(self).authenticate(self.request.headers.get("Authorization"))
        except AccessDenied as denied:
            raise make_denial(denied) from denied

    def find_user(self, claimed: str | None) -> str:
        """Return who asks; see `Credentials.choose_user`.

        Raises:
            Problem: If it claims to be another one.
        """
        try:
            return self.credentials.choose_user(claimed)
        except AccessDenied as denied:
            raise make_denial(denied) from denied

    def admit(self, user_id: str) -> Visit:
        """Count an answer that takes its time.

        Raises:
            Problem: If there are too many.
        """
        try:
            return find_gate(self).admit(user_id)
        except AccessDenied as denied:
            raise make_denial(denied) from denied


def make_denial(denied: AccessDenied) -> Problem:
    """Return the problem of somebody who may not come in."""
    return Problem(STATUS_BY_CODE[denied.code], denied.code, str(denied))
