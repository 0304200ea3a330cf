"""The error tree: what the docstring draws is what the classes say."""

import re

import pytest

from anymask import errors


def drawn_rows():
    rows = {}
    for line in errors.__doc__.splitlines():
        match = re.search(r"(\w+Error) +exit +(\d+) +http (\d+) +(\w+)", line)
        if match:
            name, status, http, code = match.groups()
            rows[name] = (int(status), int(http), code)
    return rows


def test_drawing_matches_the_classes():
    classes = {cls.__name__: (cls.exit_status, cls.http_status, cls.code) for cls in errors.error_classes()}
    assert drawn_rows() == classes


def test_every_class_is_exported_and_in_the_tree():
    exported = {name for name in errors.__all__ if name.endswith("Error")}
    assert exported == {cls.__name__ for cls in errors.error_classes()}


def test_codes_are_distinct_and_exit_statuses_small():
    classes = list(errors.error_classes())
    assert len({cls.code for cls in classes}) == len(classes)
    assert all(1 <= cls.exit_status < 64 for cls in classes)
    assert all(400 <= cls.http_status < 600 for cls in classes)


def test_a_family_shares_its_exit_status_and_no_other_family_has_it():
    heads = [
        errors.ImageError,
        errors.PromptError,
        errors.MaskError,
        errors.EmbeddingError,
        errors.NotFoundError,
        errors.LimitError,
        errors.ModelError,
        errors.ParityError,
        errors.OutputError,
        errors.MissingExtraError,
        errors.SettingsError,
    ]
    assert len({head.exit_status for head in heads}) == len(heads)
    assert errors.RleError.exit_status == errors.MaskError.exit_status
    assert errors.ImageTruncatedError.exit_status == errors.ImageError.exit_status


@pytest.mark.parametrize("cls", [errors.RleError, errors.ImageTooLargeError, errors.EmbeddingMismatchError])
def test_input_errors_are_caught_as_such(cls):
    with pytest.raises(errors.InputError, match="what was wrong"):
        raise cls("what was wrong")
