"""The text of a job file: TOML, with ``${VAR}`` from the environment, without secrets, and with the line of every complaint."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mxbridge.batch import toml_lines
from mxbridge.errors import InputError, SourceError

LARGEST = 4 * 1024**2
"""Bytes of a job file; nobody writes a longer one."""

DEEPEST = 20
"""Tables and lists in each other."""

SECRET_KEY = re.compile(
    r"(?i)(^|[_-])(pass(word|wd|phrase)?|secret|token|credentials?|(api|session|private)?[_-]?key)$"
)
SECRET_VARIABLE = re.compile(r"(?i)(PASS(WORD|WD|PHRASE)?|SECRET|TOKEN|CREDENTIALS?|KEY)$")
LOGIN_IN_ADDRESS = re.compile(r"(^|[:/])[^\s:/@]+:[^\s/@]+@[^\s/@]")
"""``user:password@host``"""

WHERE_SECRETS_GO = "A job file holds no secrets: set OMERO_PASSWORD or OMERO_SESSION_KEY where the job runs, or log in with the omero command line"
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JobError(InputError):
    """Something in a job file that cannot be meant. ``line``: where, or None."""

    def __init__(self, path: Path, line: int | None, message: str, *, hint: str = "") -> None:
        self.line = line
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {message}", hint=hint)


@dataclass(frozen=True)
class JobText:
    """What a job file says. document: as ``tomllib`` gives it, variables replaced and ``-`` in keys as ``_``. lines: by key path."""

    path: Path
    document: dict[str, Any]
    lines: dict[toml_lines.Path, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What relative paths in it are relative to."""
        return self.path.parent

    def error(self, at: toml_lines.Path, message: str, *, hint: str = "") -> JobError:
        """``line 12: [[task]] 2: model: <message>``."""
        named = in_words(at)
        return JobError(
            self.path, toml_lines.line_of(self.lines, at), f"{named}: {message}" if named else message, hint=hint
        )

    def unknown(self, at: toml_lines.Path, known: Iterable[str]) -> JobError:
        """A key that does not exist."""
        key, names = str(at[-1]), sorted(known)
        close = get_close_matches(key, names, n=1)
        guess = f"Did you mean {as_written(close[0])!r}? " if close else ""
        return self.error(at, "there is no such setting", hint=f"{guess}There is: {', '.join(map(as_written, names))}")


def in_words(at: toml_lines.Path) -> str:
    """A key path as people see it: ``[[task]] 2: model``."""
    words: list[str] = []
    for part in at:
        if isinstance(part, int) and words:
            words[-1] = f"[[{words[-1]}]] {part + 1}" if len(words) == 1 else f"{words[-1]} {part + 1}"
        else:
            words.append(as_written(str(part)))
    return ": ".join(words)


def as_written(key: str) -> str:
    """``set-class``, as on the command line."""
    return key.replace("_", "-")


def read_job_text(path: Path, environment: Mapping[str, str] | None = None) -> JobText:
    """Read a job file. environment: where ``${VAR}`` is looked up (default: this process's); ``$${`` stands for ``${``.

    Raises SourceError (not there, not readable), JobError (no TOML, an unset variable, a secret).
    """
    path = path.expanduser().absolute()
    try:
        if path.stat().st_size > LARGEST:
            raise JobError(path, None, "too large for a job file")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise SourceError(f"{path}: {why}", hint="Name a job file; examples/nightly/job.toml is one") from error
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        where = re.search(r"at line (\d+)", str(error))
        raise JobError(path, int(where[1]) if where else None, f"is not TOML ({error})") from error
    if _depth(document) > DEEPEST:
        raise JobError(path, None, "tables in tables in tables, too deep for a job file")
    lines = {_underscored(at): line for at, line in toml_lines.key_lines(text.replace("\r\n", "\n")).items()}
    plain = JobText(path, {}, lines)
    plain = JobText(path, _with_plain_keys(plain, document, ()), lines)
    _refuse_secrets(plain, plain.document, ())
    variables = os.environ if environment is None else environment
    return JobText(path, _expanded(plain, plain.document, (), variables), lines)


def _depth(document: dict[str, Any]) -> int:
    """How deep tables and lists lie in each other; not more than is of interest."""
    level: list[Any] = [document]
    for depth in range(DEEPEST + 2):
        level = [
            i for one in level for i in (one.values() if isinstance(one, dict) else one) if isinstance(i, dict | list)
        ]
        if not level:
            return depth
    return DEEPEST + 1


def _underscored(at: toml_lines.Path) -> toml_lines.Path:
    return tuple(part.replace("-", "_") if isinstance(part, str) else part for part in at)


def _with_plain_keys(text: JobText, value: Any, at: toml_lines.Path) -> Any:
    """``set-class`` and ``set_class`` are the same."""
    if isinstance(value, list):
        return [_with_plain_keys(text, inside, (*at, number)) for number, inside in enumerate(value)]
    if not isinstance(value, dict):
        return value
    plain: dict[str, Any] = {}
    for key, inside in value.items():
        name = key.replace("-", "_")
        if name in plain:
            raise text.error((*at, name), "stands here twice, with - and with _")
        plain[name] = _with_plain_keys(text, inside, (*at, name))
    return plain


def _refuse_secrets(text: JobText, value: Any, at: toml_lines.Path) -> None:
    if at and isinstance(at[-1], str) and SECRET_KEY.search(at[-1]):
        raise text.error(at, "secrets must not be here", hint=WHERE_SECRETS_GO)
    if isinstance(value, dict):
        for key, inside in value.items():
            _refuse_secrets(text, inside, (*at, key))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            _refuse_secrets(text, inside, (*at, number))
    elif isinstance(value, str):
        for name in _VARIABLE.findall(value):
            if SECRET_VARIABLE.search(name):
                raise text.error(at, f"${{{name}}} is a secret", hint=WHERE_SECRETS_GO)
        _refuse_login(text, value, at)


def _refuse_login(text: JobText, value: str, at: toml_lines.Path) -> None:
    if at[-1] == "user" and ":" in unquote(value):
        raise text.error(at, "a user with a password behind it", hint=WHERE_SECRETS_GO)
    if LOGIN_IN_ADDRESS.search(unquote(value).removeprefix("omero:")) and any(
        key in at for key in ("source", "server")
    ):
        raise text.error(at, "an address with a password in it", hint=WHERE_SECRETS_GO)


def _expanded(text: JobText, value: Any, at: toml_lines.Path, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(text, inside, (*at, key), environment) for key, inside in value.items()}
    if isinstance(value, list):
        return [_expanded(text, inside, (*at, number), environment) for number, inside in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replaced(found: re.Match[str]) -> str:
        if found[1] is None:
            return "${"
        if not _NAME.fullmatch(found[1]):
            raise text.error(at, f"{found[0]} names no variable", hint="Write ${NAME}, or $${ for a plain ${")
        if found[1] not in environment:
            raise text.error(
                at, f"the environment variable {found[1]} is not set", hint=f"Set it: export {found[1]}=..."
            )
        return environment[found[1]]

    expanded = _VARIABLE.sub(replaced, value)
    _refuse_login(text, expanded, at)
    return expanded
