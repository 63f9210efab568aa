"""One line each, the right exit code, and what to do next."""

from __future__ import annotations

import pytest

from mxbridge import errors


def every_error(base: type[errors.MxbridgeError] = errors.MxbridgeError) -> list[type[errors.MxbridgeError]]:
    """Of the tree; a module may have a private one of its own."""
    children = [child for child in base.__subclasses__() if child.__module__ == errors.__name__]
    return [base, *(found for child in children for found in every_error(child))]


def test_exit_codes_are_those_people_script_against() -> None:
    codes = {
        errors.UsageError: 2,
        errors.UnknownName: 2,
        errors.SomeImagesFailed: 3,
        errors.SourceError: 4,
        errors.ModelError: 5,
        errors.InputError: 6,
        errors.BrokenFile: 6,
        errors.NoPixelSize: 6,
        errors.NotApplicable: 6,
        errors.OutputError: 7,
        errors.Locked: 7,
        errors.ChangedMeanwhile: 7,
        errors.QualityFlagged: 8,
        errors.Interrupted: 130,
    }
    assert {e: e.exit_code for e in codes} == codes


@pytest.mark.parametrize("error", every_error(), ids=lambda e: e.__name__)
def test_every_error_is_in_the_picture_at_the_top_of_the_file(error: type[errors.MxbridgeError]) -> None:
    assert error.__name__ in (errors.__doc__ or "")


def test_messages_are_one_line() -> None:
    error = errors.BrokenFile("a.tif", "ends\nearly", position=12, hint="copy it\nagain")
    assert str(error) == "a.tif: ends early (at byte 12). copy it again"
