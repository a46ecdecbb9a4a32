"""Parses a long line of JSON in steps of a few milliseconds each, between which others have their turn (I9).

The standard parser takes a line in one step: 30 ms for 1.5 MB of escapes, 20 ms for 260 KB of brackets. This one takes several times
as long altogether, so short lines are left to the standard one.

Rules: accepts what the standard parser accepts, but NaN and Infinity. Keeps only the members of the line that are asked for.
"""

from __future__ import annotations

import json
import json.encoder
import re
from collections.abc import Collection, Generator

from broker.errors import InvalidBody

MAX_DEPTH = 1000
"""About that of the standard parser."""
STEP_TOKENS = 2000
STEP_CHARS = 16 << 10
CALL_TOKENS = 4
"""A string with escapes costs as much as so many other tokens, and its length."""
PLAIN_CHARS = 4096
"""A string without escapes is one token if it isn't longer."""

# No group is possessive: before Python 3.11.5, one that fails midway stays there.
_TOKEN = re.compile(
    r"[ \t\n\r]*+(?:"
    r"([\[{]|[\]}]|[,:])"
    rf'|("[^"\\\x00-\x1f]{{0,{PLAIN_CHARS}}}+")'
    r"|(-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?+[0-9]++)?|true|false|null)"
    r'|(")'
    r"|$)"
)
_PIECE = re.compile(r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_MARK, _PLAIN, _SCALAR, _QUOTE = 1, 2, 3, 4
_ESCAPE_CHARS = 6

_VALUE, _VALUE_OR_END, _NAME, _NAME_OR_END, _COLON, _COMMA_OR_END, _END = range(7)
"""What may follow."""
_EXPECTED_BY_MARK = {
    ",": (_COMMA_OR_END,),
    ":": (_COLON,),
    "{": (_VALUE, _VALUE_OR_END),
    "[": (_VALUE, _VALUE_OR_END),
}

_json_string = json.encoder.encode_basestring

Member = str | bool | None
"""A string is decoded, or the compact text of another value if that is wanted; null is None; any other value is False."""


def parse(
    text: str, wanted: Collection[str], compact: str, max_members: int
) -> Generator[None, None, dict[str, Member]]:
    """Returns the members of the JSON object `text` that are `wanted`, and yields between the steps.

    Args:
        compact: the member whose text is wanted if it isn't a string.

    Raises:
        InvalidBody: `text` is not one JSON object, or has more than `max_members`.
    """
    found: dict[str, Member] = {}
    stack: list[str] = []  # the brackets that are open
    name = ""  # of the member
    count = 0  # of members
    out: list[str] = []
    copied: list[str] = []  # of former steps: each token as an object of its own would take 20 times as much
    is_copied = False  # its value, to `copied` and `out`
    expected, at, left = _VALUE, 0, STEP_TOKENS
    while True:
        left -= 1
        if left <= 0:
            if out:
                copied.append("".join(out))
                out.clear()
            yield None
            left = STEP_TOKENS
        token = _TOKEN.match(text, at)
        if token is None:
            raise not_json()
        kind, at = token.lastindex, token.end()
        if kind is None:
            if expected != _END:
                raise not_json()
            return found
        part = token[kind]
        if expected == _END or not (stack or part == "{"):
            raise not_one_object()
        is_member = len(stack) == 1
        if kind == _MARK:
            if part in _EXPECTED_BY_MARK:
                if expected not in _EXPECTED_BY_MARK[part]:
                    raise not_json()
                if part == ",":
                    expected = _NAME if stack[-1] == "{" else _VALUE
                elif part == ":":
                    expected = _VALUE
                else:
                    if is_member and name in wanted:
                        is_copied, found[name] = name == compact, False
                        out.clear()
                        copied.clear()
                    stack.append(part)
                    if len(stack) > MAX_DEPTH:
                        raise InvalidBody("The line's JSON is nested too deeply.")
                    expected = _NAME_OR_END if part == "{" else _VALUE_OR_END
                if is_copied:
                    out.append(part)
                continue
            opened = stack.pop()
            if part != ("}" if opened == "{" else "]") or expected not in (
                _COMMA_OR_END,
                _NAME_OR_END if opened == "{" else _VALUE_OR_END,
            ):
                raise not_json()
            expected = _COMMA_OR_END if stack else _END
            if is_copied:
                out.append(part)
                if len(stack) == 1:
                    is_copied, found[name] = False, "".join(copied) + "".join(out)
                    out.clear()
                    copied.clear()
            continue
        if kind == _QUOTE:
            pieces, at = yield from _string(text, at)
            decoded = "".join(pieces)
            left -= CALL_TOKENS + len(decoded) * STEP_TOKENS // STEP_CHARS
            if is_copied:
                part = f'"{"".join([_json_string(piece)[1:-1] for piece in pieces])}"'
        else:
            decoded = part[1:-1]
        if expected in (_NAME, _NAME_OR_END) and kind != _SCALAR:
            expected = _COLON
            if is_member:
                count += 1
                if count > max_members:
                    raise too_many_members(max_members)
                name = decoded
        elif expected in (_VALUE, _VALUE_OR_END):
            expected = _COMMA_OR_END
            if is_member and name in wanted:
                if kind != _SCALAR:
                    found[name] = decoded
                elif name == compact:
                    found[name] = part
                else:
                    found[name] = None if part == "null" else False
        else:
            raise not_json()
        if is_copied:
            out.append(part)


def _string(text: str, at: int) -> Generator[None, None, tuple[list[str], int]]:
    """The decoded pieces of the string that begins at `at`, behind its quote, and where it ends."""
    pieces: list[str] = []
    while True:
        found = _PIECE.match(text, at, at + STEP_CHARS)
        assert found is not None, "it matches the empty text too"
        end = found.end()
        if end < len(text) and text[end] == '"':
            pieces.append(_decoded(text[at:end]))
            return pieces, end + 1
        if end < at + STEP_CHARS - _ESCAPE_CHARS:
            raise not_json()  # neither a string's end nor that of the piece
        if _HIGH_SURROGATE.search(text, end - _ESCAPE_CHARS, end):
            end -= _ESCAPE_CHARS  # it may be half of a pair
        pieces.append(_decoded(text[at:end]))
        at = end
        yield None


def _decoded(piece: str) -> str:
    return str(json.loads(f'"{piece}"')) if "\\" in piece else piece


def not_json() -> InvalidBody:
    return InvalidBody("The line is not JSON.")


def not_one_object() -> InvalidBody:
    return InvalidBody('The line is not one JSON object; send {"data": …} on each line.')


def too_many_members(most: int) -> InvalidBody:
    return InvalidBody(f"The line's object has more than {most} members; put them into 'data'.")
