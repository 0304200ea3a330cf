"""Every limit is a named, positive constant in the table and in docs/limits.md."""

from pathlib import Path

from anymask import limits

DOC = Path(__file__).parents[1] / "docs" / "limits.md"


def test_the_table_lists_every_constant():
    constants = {name for name in vars(limits) if name.startswith(("MAX_", "MIN_"))}
    assert {row.name for row in limits.table()} == constants


def test_the_document_has_not_drifted():
    assert DOC.read_text() == limits.as_markdown(), "run: python -m anymask.limits > docs/limits.md"


def test_values_are_positive_and_fit_together():
    assert all(row.value > 0 and row.unit and row.meaning for row in limits.table())
    assert limits.MAX_IMAGE_SIDE <= limits.MAX_IMAGE_PIXELS <= limits.MAX_IMAGE_SIDE**2
    # six groups of five bits, one of them the sign, must hold any difference of two run lengths
    assert limits.MAX_IMAGE_PIXELS < 2 ** (6 * 5 - 1)
