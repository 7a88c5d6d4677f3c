import pytest

ALL = (
    *("--requests-per-minute", "60", "--tokens-per-minute", "100000", "--concurrent", "4"),
    *("--models", "smart,f*", "--monthly", "$10.00", "--networks", "10.0.0.0/8,::1"),
)
SHOWN = {
    "requests_per_minute": 60,
    "tokens_per_minute": 100_000,
    "concurrent_requests": 4,
    "models": ["smart", "f*"],
    "monthly_usd": "10.00",
    "networks": ["10.0.0.0/8", "::1"],
}
IN_WORDS = (
    "60 requests/min; 100,000 tokens/min; 4 at once; $10.00 a month; models smart,f*; "
    "networks 10.0.0.0/8,::1"
)


@pytest.fixture
def key_id(cli, ready):
    return cli("keys", "list").rows[0][0]


def limits_of(cli, key_id):
    return cli("keys", "show", key_id, "--json").json["limits"]


def test_a_key_is_created_with_every_limit(cli, ready):
    key = cli("keys", "create", "ci", *ALL, "--json").json

    assert key["limits"] == SHOWN
    assert limits_of(cli, key["id"]) == SHOWN


def test_limits_are_changed_one_by_one_and_lifted(cli, key_id):
    assert limits_of(cli, key_id) is None

    done = cli("keys", "limit", key_id, *ALL)
    assert (done.code, done.out) == (0, f"{key_id}\n")
    assert "from the next request on" in done.err
    cli("keys", "limit", key_id, "--monthly", "none", "--concurrent", "2")
    assert limits_of(cli, key_id) == {
        name: value
        for name, value in (SHOWN | {"concurrent_requests": 2}).items()
        if name != "monthly_usd"
    }
    lifted = [word if word.startswith("--") else "none" for word in ALL]
    assert cli("keys", "limit", key_id, *lifted, "--json").json["limits"] is None


def test_a_list_tells_limits_in_a_column(cli, key_id):
    cli("keys", "create", "ci", *ALL)

    assert [row[-1] for row in cli("keys", "list").rows] == [IN_WORDS, ""]


def test_a_key_with_a_cap_shows_what_the_month_has_come_to(cli, key_id):
    cli("keys", "limit", key_id, "--monthly", "10")

    spend = cli("keys", "show", key_id, "--json").json["spend"]
    told = dict(cli("keys", "show", key_id).rows)

    assert (spend["spent_micros"], spend["held_micros"]) == (0, 0)
    assert spend["cap_micros"] == 10_000_000
    assert spend["resets_at"].endswith("-01T00:00:00Z")
    assert told["spend"].startswith("$0.00 spent and $0.00 held of $10.00; begins anew at ")
    assert told["limits"] == "$10 a month"


def test_a_rotated_key_hands_its_limits_to_its_successor(cli, key_id):
    cli("keys", "limit", key_id, *ALL)

    successor = cli("keys", "rotate", key_id, "--json").json

    assert successor["limits"] == SHOWN
    assert cli("keys", "show", key_id, "--json").json["limits_key_id"] == successor["id"]
    done = cli("keys", "limit", key_id, "--concurrent", "9")
    assert (done.code, successor["id"] in done.err) == (6, True)


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--requests-per-minute", "0", "must be a whole number above 0"),
        ("--requests-per-minute", "many", "must be a whole number above 0"),
        ("--tokens-per-minute", "1.5", "must be a whole number above 0"),
        ("--concurrent", "-1", "must be a whole number above 0"),
        ("--models", "smrt", "`smrt` is not the name of a model"),
        ("--models", "", "must be names"),
        ("--monthly", "ten", "must be dollars"),
        ("--monthly", "0.0000001", "must be dollars"),
        ("--monthly", "-1", "must be dollars"),
        ("--networks", "10.0.0.1/8", "must be an IP address or a network"),
        ("--networks", "home", "must be an IP address or a network"),
    ],
)
def test_a_limit_that_makes_no_sense_is_a_usage_error(cli, key_id, flag, value, told):
    done = cli("keys", "limit", key_id, "--json", f"{flag}={value}")

    assert done.code == 2
    assert done.error["message"].startswith(f"{flag} ")
    assert told in done.error["message"]
    assert limits_of(cli, key_id) is None


def test_a_change_has_to_say_what(cli, key_id):
    assert cli("keys", "limit", key_id).code == 2
    assert cli("keys", "limit", "key_none", "--concurrent", "1").code == 5


def test_a_subscription_key_has_no_cap_of_money(cli, ready):
    done = cli("keys", "create", "ci", "--billing", "subscription", "--monthly", "5", "--json")

    assert (done.code, "cannot have a monthly cap" in done.error["message"]) == (2, True)
