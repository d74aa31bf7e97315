import click
import pytest
from click.testing import CliRunner

from cmt_export.options import recipe_options


@click.command()
@recipe_options
def chosen(**options):
    click.echo(repr({name: value for name, value in options.items() if value is not None}))


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--epsilon", "8/255"], {"epsilon": 8 / 255}),
        (["--squash", "16"], {"squash": 16.0}),
        (["--inner-steps", "7"], {"inner_steps": 7}),
        (["--lock", "gated"], {"lock": "gated"}),
        ([], {}),
    ],
    ids=["fraction", "decimal", "whole", "word", "none"],
)
def test_options_have_the_types_of_their_fields(typed, read):
    assert CliRunner().invoke(chosen, typed).output == f"{read!r}\n"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--epsilon", "8/0"], "expected a number such as 0.1 or 8/255, got '8/0'"),
        (["--inner-steps", "0.5"], "'0.5' is not a valid integer"),
        (["--lock", "key"], "'key' is not one of"),
    ],
    ids=["fraction", "whole", "word"],
)
def test_what_has_another_type_is_refused(typed, expected):
    result = CliRunner().invoke(chosen, typed)
    assert result.exit_code == 2
    assert expected in result.output
