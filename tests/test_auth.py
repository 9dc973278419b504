"""What the gate is made of, each part by its laws: attempts, sessions, keys, origins, and where the app may listen."""

from __future__ import annotations

import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.auth import Listening, check, start_lines
from bluelm.auth.attempts import BURST, FREE, LONGEST_WAIT_S, REFILL_PER_S, Attempts, address_group
from bluelm.auth.keys import KeyFile, Meter, digest, new_key
from bluelm.auth.login import safe_path
from bluelm.auth.origins import Origins, is_loopback
from bluelm.auth.sessions import FILE, KEY_LASTS_S, LASTS_S, RENEWED_AFTER_S, Sessions
from bluelm.auth.words import WORDS, language
from bluelm.config import Settings, load_settings
from bluelm.errors import RateLimited, SettingError, TooManyAttempts
from bluelm.guest import Guest

HERE = Listening("127.0.0.1", 6006)
PASSCODE = "open-sesame-1"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def may_try(attempts: Attempts, who: str, *, known: bool = False) -> bool:
    try:
        attempts.check(who, known=known)
    except TooManyAttempts as error:
        assert error.details["retry_after"] >= 1
        return False
    return True


# --- attempts ---


@given(st.lists(st.floats(0, 30), min_size=200, max_size=400))
def test_however_one_guesses_few_guesses_are_heard(pauses: list[float]) -> None:
    """After the first ones, an address is heard once in LONGEST_WAIT_S."""
    clock = Clock()
    attempts = Attempts(clock)
    heard, begun = 0, clock.now
    for pause in pauses:
        clock.now += pause
        if may_try(attempts, "1.2.3.4"):
            attempts.failed("1.2.3.4")
            heard += 1
    assert heard <= FREE + 6 + (clock.now - begun) / LONGEST_WAIT_S


def test_guesses_from_everywhere_are_heard_at_one_rate_and_hold_up_no_known_browser() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    heard = 0
    for n in range(20_000):
        clock.now += 0.01
        if may_try(attempts, f"address {n}"):
            attempts.failed(f"address {n}")
            heard += 1
    assert heard <= BURST + 200 * REFILL_PER_S + 1
    assert not may_try(attempts, "one more")
    assert may_try(attempts, "browser abc", known=True)
    clock.now += 1 / REFILL_PER_S
    assert may_try(attempts, "one more"), "a stranger gets a turn as well"


def test_one_address_that_is_held_up_holds_up_no_other() -> None:
    attempts = Attempts(Clock())
    for _ in range(FREE):
        attempts.failed("1.2.3.4")
    assert not may_try(attempts, "1.2.3.4") and may_try(attempts, "1.2.3.5")


def test_the_right_passcode_makes_good_what_was_wrong_before() -> None:
    attempts = Attempts(Clock())
    for _ in range(50):
        assert may_try(attempts, "me")
        attempts.failed("me", known=True)
        attempts.succeeded("me")
    assert may_try(attempts, "me")


def test_who_counts_as_one() -> None:
    assert address_group("2001:db8:1:2:3::4") == address_group("2001:db8:1:2::9") != address_group("2001:db8:1:3::9")
    assert address_group("::ffff:1.2.3.4") == address_group("1.2.3.4") == "1.2.3.4"
    assert address_group("1.2.3.4\nforged log line") == address_group("") == "unknown"


# --- sessions ---


def test_a_cookie_is_good_until_its_end_and_after_a_new_start(tmp_path: Path) -> None:
    clock = Clock()
    session, cookie = Sessions(tmp_path, PASSCODE, clock).begin(secure=True)
    again = Sessions(tmp_path, PASSCODE, clock)
    assert again.find(cookie) == session and session.secure
    clock.now += LASTS_S
    assert again.find(cookie) is None and again.known(cookie) == session


def test_the_keys_lie_in_a_file_for_its_owner_only(tmp_path: Path) -> None:
    Sessions(tmp_path / "data", PASSCODE).begin(secure=False)
    assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600
    assert PASSCODE not in (tmp_path / "data" / FILE).read_text()


def test_keys_rotate_and_what_the_old_ones_signed_stays_good(tmp_path: Path) -> None:
    clock = Clock()
    sessions = Sessions(tmp_path, PASSCODE, clock)
    cookies = []
    for _ in range(12):
        cookies.append(sessions.begin(secure=False)[1])
        assert sessions.find(cookies[-1])
        clock.now += KEY_LASTS_S + 1
    assert len({cookie.split(".")[0] for cookie in cookies}) == 12
    good = [cookie for cookie in cookies if sessions.find(cookie)]
    assert len(good) == LASTS_S // KEY_LASTS_S
    assert len(sessions._keys) <= (LASTS_S + KEY_LASTS_S) // KEY_LASTS_S + 1, "old keys are thrown away"


def test_another_passcode_and_signing_out_end_sessions_for_good(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, PASSCODE)
    session, cookie = sessions.begin(secure=False)
    other = sessions.begin(secure=False)[1]
    assert Sessions(tmp_path, "another-one").find(cookie) is None
    sessions.end(session)
    assert sessions.find(cookie) is None and sessions.find(other)
    assert Sessions(tmp_path, PASSCODE).find(cookie) is None


def test_a_browser_in_use_gets_a_fresh_cookie_of_the_same_session(tmp_path: Path) -> None:
    clock = Clock()
    sessions = Sessions(tmp_path, PASSCODE, clock)
    session, cookie = sessions.begin(secure=False)
    assert sessions.renewed(session) is None
    clock.now += RENEWED_AFTER_S + 1
    fresh = sessions.renewed(session)
    assert fresh is not None and (found := sessions.find(fresh)) is not None
    assert found.id == session.id and found.ends > session.ends
    sessions.end(session)
    assert sessions.find(fresh) is None and sessions.find(cookie) is None


@given(st.data())
def test_no_changed_cookie_is_a_session(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sessions = Sessions(tmp_path_factory.mktemp("s"), PASSCODE)
    cookie = sessions.begin(secure=False)[1]
    at = data.draw(st.integers(0, len(cookie) - 1))
    letter = data.draw(st.characters().filter(lambda c: c != cookie[at]))
    assert sessions.known(cookie[:at] + letter + cookie[at + 1 :]) is None
    assert sessions.known(data.draw(st.text())) is None


@pytest.mark.parametrize("damage", ["{", "[]", '{"keys": [{}], "ended": {}}', '{"keys": 1, "ended": 2}'])
def test_a_damaged_file_of_keys_signs_everybody_out_and_is_made_anew(tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE).write_text(damage)
    sessions = Sessions(tmp_path, PASSCODE)
    assert sessions.find(sessions.begin(secure=False)[1])
    assert Sessions(tmp_path, PASSCODE).find(sessions.begin(secure=False)[1])


# --- keys ---


def test_a_key_is_made_shown_once_and_found(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "bluelm.auth", "alice"], text=True, capture_output=True, check=True)
    key = made.stderr.split()[-1]
    file = tmp_path / "keys.toml"
    file.write_text(made.stdout)
    assert KeyFile(file).find(key) == Guest("alice") and KeyFile(file).find(key + "x") is None
    assert key not in made.stdout and len(tomllib.loads(made.stdout)["alice"]["sha256"]) == 64


def test_a_key_taken_out_of_the_file_is_no_good_any_more(tmp_path: Path) -> None:
    clock, key, file = Clock(), new_key(), tmp_path / "keys.toml"
    file.write_text(f'[a]\nsha256 = "{digest(key)}"\nsimultaneous = 2\n')
    keys = KeyFile(file, clock)
    assert keys.find(key) == Guest("a", simultaneous=2)
    file.write_text("[a]\nsha")  # half written
    clock.now += 5
    assert keys.find(key)
    file.write_text("")
    clock.now += 5
    assert keys.find(key) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x = 1", "x needs sha256"), ('[x]\nsha256 = "abc"', "x needs sha256"), ("[x", "cannot be read"),
        (f'[x]\nsha256 = "{"0" * 64}"\nrpm = 1', "x.rpm is unknown"),
        (f'[x]\nsha256 = "{"0" * 64}"\nsimultaneous = 0', "x.simultaneous is 0"),
        (f'[x]\nsha256 = "{"0" * 64}"\n[y]\nsha256 = "{"0" * 64}"', "y has the key of x"),
    ],
)  # fmt: skip
def test_a_bad_key_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(SettingError, match=named):
        KeyFile(tmp_path / "keys.toml")


@given(st.lists(st.floats(0, 20), max_size=200), st.integers(1, 30))
def test_a_key_gets_its_requests_a_minute_and_no_more(pauses: list[float], limit: int) -> None:
    clock, guest = Clock(), Guest("a", requests_per_minute=limit)
    meter, begun, served = Meter(clock), clock.now, 0
    for pause in pauses:
        clock.now += pause
        try:
            meter.enter(guest)
        except RateLimited as error:
            clock.now += error.details["retry_after"]
            meter.enter(guest)  # what Retry-After says is true
        meter.leave(guest)
        served += 1
    assert served <= limit + (clock.now - begun) * limit / 60 + 1e-6


def test_a_key_has_so_many_requests_at_a_time() -> None:
    meter, guest = Meter(Clock()), Guest("a", simultaneous=2)
    meter.enter(guest)
    meter.enter(guest)
    with pytest.raises(RateLimited, match="2 requests running"):
        meter.enter(guest)
    meter.enter(Guest("b"))
    meter.leave(guest)
    meter.enter(guest)


# --- origins ---

PUBLIC = Origins(["https://u1.example.com:8443"])


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "fine"),
    [
        ("http://127.0.0.1:6006", "127.0.0.1:6006", "http", True),
        ("http://localhost:6006", "127.0.0.1:6006", "http", False),
        ("http://127.0.0.1:8888", "127.0.0.1:6006", "http", False),
        ("https://app.example.org", "app.example.org", "http", True),
        ("https://app.example.org", "APP.example.org:443", "http", True),
        ("http://app.example.org", "app.example.org", "https", False),
        ("https://u1.example.com:8443", "127.0.0.1:6006", "http", True),
        ("https://u1.example.com:8443", "u1.example.com", "http", True),
        ("https://u1.example.com", "127.0.0.1:6006", "http", False),
        ("https://evil.com", "127.0.0.1:6006", "http", False),
        ("https://u1.example.com:8443.evil.com", "127.0.0.1:6006", "http", False),
        ("null", "127.0.0.1:6006", "http", False),
        ("", "", "http", False),
        ("file://", "127.0.0.1:6006", "http", False),
        ("http://127.0.0.1:6006@evil.com", "127.0.0.1:6006", "http", False),
        ("http://evil.com", None, "http", False),
    ],
)
def test_which_pages_may_use_the_app(origin: str, host: str | None, scheme: str, fine: bool) -> None:
    assert PUBLIC.allows_origin(origin, host, scheme) is fine


@pytest.mark.parametrize(
    ("host", "fine"),
    [("127.0.0.1:6006", True), ("localhost:1234", True), ("[::1]:6006", True), ("192.168.1.5:6006", True),
     ("u1.example.com", True), ("evil.com:6006", False), ("127.0.0.1.evil.com", False), ("", False), (None, False),
     ("localhost:x", False), ("evil.com:6006@127.0.0.1", False)],
)  # fmt: skip
def test_under_which_names_the_app_is_found_without_a_passcode(host: str | None, fine: bool) -> None:
    assert PUBLIC.allows_host(host) is fine


@pytest.mark.parametrize(
    ("path", "where"),
    [("/", "/"), ("/?c=abc&share=1", "/?c=abc&share=1"), ("//evil.com", "/"), ("/\\evil.com", "/"), ("", "/"),
     ("http://evil.com", "/"), ("javascript:1", "/"), ("/login?next=/", "/"), ("/\r\nSet-Cookie: x", "/"),
     ("/\t/evil.com", "/")],
)  # fmt: skip
def test_after_signing_in_one_stays_here(path: str, where: str) -> None:
    assert safe_path(path) == where


# --- the start ---


def settings(**given: str) -> Settings:
    return load_settings(**given)


@pytest.mark.parametrize("address", [None, "0.0.0.0", "::", "192.168.1.5", "box.local"])
def test_nobody_listens_elsewhere_without_a_passcode(address: str | None) -> None:
    with pytest.raises(SettingError, match="BLUELM_PASSCODE"):
        check(settings(), Listening(address, 6006))
    check(settings(passcode=PASSCODE), Listening(address, 6006))


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_this_machine_alone_needs_no_passcode(address: str) -> None:
    assert is_loopback(address)
    check(settings(), Listening(address, 6006))


def test_what_others_can_find_needs_a_passcode() -> None:
    for wanted, listening in [
        ({"public_url": "https://x.example.org"}, HERE),
        ({"keys": "keys.toml"}, HERE),
        ({}, Listening("127.0.0.1", 6006, ["https://x.example.org"])),
    ]:
        with pytest.raises(SettingError, match="BLUELM_PASSCODE"):
            check(settings(**wanted), listening)
    check(settings(public_url="http://localhost:8080"), HERE)


def test_autodl_is_recognised_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AutoDLService6006URL", "https://u1-a.westb.seetacloud.com:8443")
    with pytest.raises(SettingError, match=r"AutoDL shows port 6006 .*u1-a.westb.seetacloud.com:8443.*PORT=6010"):
        check(settings(), HERE)
    check(settings(), Listening("127.0.0.1", 6010))
    lines = "\n".join(start_lines(settings(passcode=PASSCODE), HERE))
    assert "Also at https://u1-a.westb.seetacloud.com:8443" in lines and "ssh -CN -L 6006:127.0.0.1:6006" in lines
    assert PASSCODE not in lines


@pytest.mark.parametrize("bad", ["short", "with space in it", "口令口令口令口令", "x" * 201])
def test_a_passcode_that_no_header_can_carry_is_refused_and_never_shown(bad: str) -> None:
    with pytest.raises(SettingError, match="passcode") as told:
        settings(passcode=bad)
    assert bad not in told.value.message


@pytest.mark.parametrize("bad", ["chat.example.org", "https://a.b/path", "ftp://a.b", "https://a b", "https://u@a.b"])
def test_a_public_url_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(SettingError, match="public_url"):
        settings(public_url=bad)


def test_the_passcode_is_in_nothing_that_shows_settings() -> None:
    given = settings(passcode=PASSCODE)
    assert PASSCODE not in f"{given!r} {given} {given.model_dump()} {given.model_dump_json()}"


def test_the_words_to_sign_in_are_there_in_both_languages() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    assert language("fr, zh-CN;q=0.8, en") == "zh" and language("de") == "en" and language("zh", "en") == "en"
