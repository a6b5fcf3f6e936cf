"""Specifications: all mistakes at once, with the place and the nearest known name."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis import spec as specs
from genesis.cast import key_names
from genesis.check import warnings
from genesis.spec import ChainSpec, format_spec, load_spec, parse_spec, preset_text
from ledger.client.keys import DevKeys, encode_address
from ledger.errors import NotFound, UsageError

KEYS = DevKeys(5)
A, B, C = (encode_address(KEYS.session(i).public) for i in range(3))
SMALL = f"""
[chain]
name = "test"
[[authorities]]
session = "{A}"
account = "{B}"
"""


def mistakes(text):
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    return caught.value.data["errors"]


def test_the_smallest_specification():
    spec = parse_spec(SMALL)
    authority = specs.AuthoritySpec(KEYS.session(0).public, KEYS.session(1).public)
    assert spec == ChainSpec("test", (authority,), runtime_version=1)  # a file that names none means the first, for ever


@pytest.mark.parametrize("name", ["devnet", "solo"])
def test_presets_parse_and_survive_writing(name):
    spec = parse_spec(preset_text(name))
    assert parse_spec(format_spec(spec)) == spec
    named = format_spec(spec, key_names(1, len(spec.authorities)))
    assert parse_spec(named) == spec and '"//owner//hot"' in named


def test_the_network_preset_lacks_only_its_keys():
    assert mistakes(preset_text("network")) == ["authorities: at least one is needed"]
    filled = preset_text("network") + f'[[authorities]]\nsession = "{A}"\naccount = "{B}"\n'
    spec = parse_spec(filled)
    assert not spec.devnet and spec.seed is None and warnings(spec) == []


def test_all_mistakes_come_at_once_with_their_place():
    found = mistakes(f"""
        [chian]
        [chain]
        name = "bad/name"
        block_time = 5
        session_blocks = 0
        seal = "never"
        instance = "xyz"
        [global]
        kappa = 1
        fee_bas_rao = 2
        [root]
        tempo = "soon"
        [[authorities]]
        session = "nonsense"
        [[accounts]]
        key = "{A}"
        free = "many"
        [[subnets]]
        netuid = 0
        name = "x"
        owner = "{A}"
        owner_hotkey = "//owner"
        [subnets.params]
        tempoo = 3
        [[neurons]]
        hotkey = "{A}"
        coldkey = "{A}"
        subnets = [1, 1]
        permit = "yes"
    """)
    text = "\n".join(found)
    for part in (
        "chian: unknown key; did you mean chain?", "chain.name", "chain.block_time: unknown key; did you mean block_time_ms?",
        "chain.session_blocks: expected a whole number from 5", "chain.seal: expected one of interval, instant, manual",
        "chain.instance", "global.kappa: unknown key", "did you mean fee_base_rao?", "root.tempo: tempo is an integer",
        "authorities[0].session", "authorities[0].account: missing", "accounts[0].free", "subnets[0].netuid",
        "subnets[0].owner_hotkey: //owner is a devnet's key", "did you mean tempo?", "listed twice", "neurons[0].permit",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "chain: this section is missing"),
        ("= 1", "not TOML"), ("a = " + "9" * 5000, "not TOML"), ("a = " + "[" * 5000, "not TOML"),
        ("version = 2\n" + SMALL, "version 1"),
        ('[chain]\nname = "x"\nseed = 1\n', "only a devnet"),
        ("chain = 5", "expected a table"),
        ("accounts = 3" + SMALL, "accounts: expected a list of tables, written [[accounts]]"),
        (SMALL + "accounts = 3", "authorities[0].accounts: unknown key; did you mean account?"),
        (SMALL + f'[[accounts]]\nkey = "{A}"\nfree = 499', "existential deposit"),
        (SMALL + f'[[accounts]]\nkey = "{A}"\nfree = "1 Q"\n' * 2, "the same key as accounts[0]"),
        (SMALL + f'[[accounts]]\nkey = "{A}"\nfree = "22_000_000 Q"', "supply cap"),
        (SMALL + f'[[authorities]]\nsession = "{A}"\naccount = "{B}"', "the same session key"),
        (SMALL + f'[[neurons]]\nhotkey = "{A}"\ncoldkey = "{B}"\nsubnets = [3]', "there is no subnet 3"),
        (SMALL + f'[[neurons]]\nhotkey = "{A}"\ncoldkey = "{B}"\nsubnets = [0]\n' * 2, "registered twice"),
        (SMALL.replace(A, "0x" + "00" * 32), "not a valid ed25519 key"),
        (SMALL.replace('name = "test"', 'name = "test"\nruntime_version = 7'), "this program knows 1, 2"),
        (SMALL + "[root]\ntempo = 5\nalpha_low = 60000", "alpha_low is 60000"),
        (SMALL.replace('name = "test"', 'name = "test"\nsudo = "0x' + "00" * 32 + '"'), "chain.sudo"),
    ],
)
def test_single_mistakes(text, part):
    try:
        parse_spec(text)
    except UsageError as error:
        assert part in error.cause
    else:
        pytest.fail("no mistake was found")


def test_tempo_must_fit_the_authorities():
    rows = "".join(
        f'[[authorities]]\nsession = "{encode_address(KEYS.session(i).public)}"\naccount = "{A}"\n' for i in range(1, 13)
    )
    subnet = f'[[subnets]]\nnetuid = 1\nname = "a"\nowner = "{A}"\nowner_hotkey = "{B}"\n[subnets.params]\ntempo = 11\n'
    assert any("tempo is 11" in text and "at least 12" in text for text in mistakes(SMALL + rows + subnet))


def test_two_owners_of_one_hotkey_are_a_mistake():
    neurons = "".join(
        f'[[neurons]]\nhotkey = "{A}"\ncoldkey = "{cold}"\nsubnets = [{net}]\n' for cold, net in ((B, 0), (C, 1))
    )
    subnet = f'[[subnets]]\nnetuid = 1\nname = "a"\nowner = "{A}"\nowner_hotkey = "{C}"\n'
    assert any("another owner" in text for text in mistakes(SMALL + subnet + neurons))


def test_sealing_by_hand_needs_one_authority():
    text = preset_text("devnet").replace('seal = "interval"', 'seal = "manual"')
    assert mistakes(text) == ["chain.seal: manual works with one authority only"]
    assert parse_spec(preset_text("solo").replace('seal = "interval"', 'seal = "manual"')).seal == "manual"


def test_warnings_name_choices_that_surprise():
    text = SMALL.replace('name = "test"', f'name = "test"\nsudo = "{A}"')
    spec = parse_spec(text + f'[[authorities]]\nsession = "{B}"\naccount = "{B}"\n')
    assert len(warnings(spec)) == 2 and "tolerate 0 failures" in warnings(spec)[0]
    assert warnings(parse_spec(preset_text("devnet"))) == []
    lonely = f'[[subnets]]\nnetuid = 1\nname = "a"\nowner = "{A}"\nowner_hotkey = "{B}"\n'
    assert "pay nobody" in warnings(parse_spec(SMALL + lonely))[0]


@pytest.mark.parametrize(
    ("given", "rao"),
    [
        (5, 5), ("5 r", 5), ("5rao", 5), ("1 Q", 10**9), ("1.5Q", 1_500_000_000), ("1_000 Q", 10**12),
        ("0.000000001 Q", 1), ("1,000 Q", 10**12),
    ],
)
def test_amounts(given, rao):
    assert specs._amount(given) == rao


@pytest.mark.parametrize("given", [-1, 1 << 64, True, 1.5, "1.5 r", "Q", "1", "1.1234567891 Q", "1e9 Q", "99999999999 Q", None])
def test_malformed_amounts(given):
    with pytest.raises(ValueError):
        specs._amount(given)


def test_files(tmp_path):
    path = tmp_path / "spec.toml"
    with pytest.raises(NotFound):
        load_spec(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="UTF-8"):
        load_spec(path)
    path.write_text(SMALL)
    assert load_spec(path).name == "test"
    with pytest.raises(NotFound):
        preset_text("../devnet")


ANYTHING = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5), st.booleans(), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
)


@given(ANYTHING)
def test_any_value_in_any_section_is_a_mistake_or_a_spec_never_a_crash(value):
    tree = tomllib.loads(SMALL)
    for section in ("chain", "global", "root", "authorities", "accounts", "subnets", "neurons", "version"):
        for nested in (value, [value], {"name": value, "key": value, "params": value, "subnets": value}):
            specs._chain(specs._Reader(), {**tree, section: nested})


def test_a_specification_that_cannot_be_read_says_why(tmp_path, monkeypatch):
    path = tmp_path / "spec.toml"
    with pytest.raises(NotFound, match="there is no chain specification"):
        load_spec(path)
    path.write_text("[chain]\nname = \"x\"\nseed = = 3\n")
    with pytest.raises(UsageError, match="line 3"):
        load_spec(path)
    with pytest.raises(UsageError, match="is a folder"):
        load_spec(tmp_path)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UsageError, match="no permission to read"):
        load_spec(path)
