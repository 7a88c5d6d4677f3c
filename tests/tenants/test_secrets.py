from hypothesis import given
from hypothesis import strategies as st

from server.tenants import secrets

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
random_bytes = st.binary(min_size=32, max_size=32)


def made_of(content):
    return secrets.generate(lambda count: content[:count])


def test_a_secret_is_a_prefix_256_bits_and_a_checksum():
    assert made_of(bytes(32)) == "gwk_" + "0" * 43 + secrets.generate(bytes)[-6:]
    assert len(made_of(b"\xff" * 32)) == 53


def test_two_secrets_differ():
    assert secrets.generate() != secrets.generate()


@given(random_bytes)
def test_every_secret_is_well_formed_and_has_one_width(content):
    secret = made_of(content)

    assert secrets.is_well_formed(secret)
    assert len(secret) == 53


@given(random_bytes, random_bytes)
def test_different_random_bits_give_different_secrets(one, other):
    assert (made_of(one) == made_of(other)) == (one == other)


@given(random_bytes, st.integers(0, 52), st.sampled_from(ALPHABET + "_- é\n"))
def test_any_single_character_changed_is_noticed(content, position, character):
    secret = made_of(content)
    changed = secret[:position] + character + secret[position + 1 :]

    assert secrets.is_well_formed(changed) == (changed == secret)


@given(random_bytes, st.integers(0, 51))
def test_two_neighbours_swapped_are_noticed(content, position):
    secret = made_of(content)
    first, second = secret[position : position + 2]
    changed = secret[:position] + second + first + secret[position + 2 :]

    assert secrets.is_well_formed(changed) == (changed == secret)


@given(st.text())
def test_any_other_text_is_refused(text):
    assert not secrets.is_well_formed(text)


@given(random_bytes, st.text(min_size=1, max_size=3))
def test_a_secret_with_something_around_it_is_refused(content, extra):
    assert not secrets.is_well_formed(made_of(content) + extra)
    assert not secrets.is_well_formed(extra + made_of(content))


def test_a_digest_is_the_sha_256_in_hexadecimal():
    known = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

    assert secrets.digest("hello") == known


def test_an_id_has_its_prefix_and_22_base62_digits():
    assert secrets.new_id("key_", bytes) == "key_" + "0" * 22
    assert secrets.new_id("tnt_", lambda count: b"\xff" * count).startswith("tnt_")
    assert len(secrets.new_id("key_")) == 26
