"""What may be kept of command lines and sentences: everything but what looks like a secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commbench.allowlist import HIDDEN, argv, text

SECRET = "hunter2"


@pytest.mark.parametrize(
    "said",
    [
        "https://joe:hunter2@wiki/x",
        "https://joe:hun/hunter2@wiki/x",
        "ssh://hunter2@host",
        "redis://:hunter2@host:6379",
        "criteria=[{kind: fleet, source: 'https://joe:hunter2@wiki/x'}]",
        "token=hunter2",
        "{auth_token: hunter2, size: 3}",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "aws_access_key_id: hunter2",
        "MY_API_KEY = hunter2",
        'x-api-key="a hunter2 b"',
        "db_password: 'a hunter2'",
        "MYSQL_PASS=hunter2",
        "contract password: hunter2",
        "Authorization: Basic hunter2",
        "authorization: Bearer hunter2",
        "curl -H bearer hunter2",
        "SLURM_JWT=hunter2",
        "ssh_private_key_file: hunter2",
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(said: str) -> None:
    assert SECRET not in text(said)
    assert HIDDEN in text(said)
    assert text(text(said)) == text(said)


@pytest.mark.parametrize(
    "said",
    [
        "https://wiki:8080/limits",
        "--set=trial.max_time=30ms",
        "$.auth: unknown key; did you mean 'alpha'?",
        "criteria[0].token: unknown key",
        "unknown key 'expct'; did you mean 'expect'?",
        "PASS: 3 of 4 hosts",
        "passed: 3, bypass=1, monkey: 4, keys: [1], tokens: 512, author: me",
        "h1,h2:8@eth0",
        "password is wrong",
        "/tmp/run@2/journal.jsonl",
    ],
)
def test_what_is_no_secret_stays_as_it_is(said: str) -> None:
    assert text(said) == said


def test_the_word_behind_a_secret_option_is_hidden() -> None:
    words = [
        "commbench",
        "tune",
        "--auth-token",
        SECRET,
        "--out",
        "run",
        "-n",
        "2",
        f"--password={SECRET}",
        "--token",
        "--json",
    ]
    kept = argv(words)
    assert kept == (*words[:3], HIDDEN, *words[4:8], f"--password={HIDDEN}", "--token", "--json")


@given(st.text(alphabet="ab:/@=-_ '\"TOKEN{}[],.", max_size=40))
def test_what_was_cleaned_is_clean(said: str) -> None:
    assert text(text(said)) == text(said)
