"""The fleet's policy: what a text spells, what is wrong with it and where, which rule counts, and diffs in words."""

from __future__ import annotations

import contextlib
import re
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model import fleet_policy
from p2pfill.model.fleet_policy import (
    HOPS,
    NO_POLICY,
    NO_SETTINGS,
    FillRule,
    FleetPolicy,
    PolicyError,
    diff,
    doubts,
    parse_policy,
    settings_for,
    show_reach,
    show_seconds,
)
from p2pfill.model.node import NodeInfo
from p2pfill.model.origins import OriginReport
from p2pfill.model.policy import ANYWHERE, Reach
from p2pfill.model.prices import NO_PRICES, Price, Prices
from p2pfill.model.terms import MILLIONTHS, REGIONAL

TEXT = """
[[caches]]
name = "eu-nights"
selector = "region=eu"
windows = "02:00,1.2G 08:00,off"
rates = "300M"

[[fills]]
name = "films"
selector = "region=eu"
titles = "film-*"
hops = ["origin", "isp", "region"]
waits = {region = "30s", origin = "1h30m"}

[[fills]]
name = "no-cloud"
hops = ["isp", "region", "all"]

[[residency]]
name = "licence"
titles = "film-*"
regions = ["eu", "uk"]
"""


def cache(region: str = "eu", isp: str = "i") -> NodeInfo:
    return NodeInfo("a1", isp, region)


def test_a_text_is_read_and_the_first_rule_that_fits_counts() -> None:
    policy = parse_policy(TEXT)
    assert policy.fill_rule_for(cache(), "film-1") == FillRule(
        "films", "region=eu", "film-*", ("isp", "region", "origin"), {"region": 30.0, "origin": 5400.0}
    )
    assert policy.reach_for(cache(), "film-1") == Reach(30.0, None, 5400.0, "films", ("eu", "uk"), "licence")
    assert policy.reach_for(cache(), "news") == Reach(0.0, 0.0, None, "no-cloud")
    assert policy.reach_for(cache("us"), "film-1").rule == "no-cloud"
    assert show_reach(policy.reach_for(cache(), "film-1")) == "isp, region after 30s, never all, origin after 1h30m"
    found = policy.rule_for(cache())
    assert found is not None
    assert found.name == "eu-nights"
    assert found.rates.inbound.total == 300 << 20
    assert policy.rule_for(cache("us")) is None
    assert settings_for(policy, cache()).rule == "eu-nights"
    assert settings_for(policy, cache("us")) == NO_SETTINGS


def test_residency_is_a_matter_of_the_title_and_not_of_the_rules_of_caches() -> None:
    policy = parse_policy(TEXT)
    assert policy.bars(cache("us"), "film-1") == "licence"
    assert not policy.bars(cache("uk"), "film-1")
    assert not policy.bars(cache("us"), "news")


def test_nothing_is_said_by_an_empty_text() -> None:
    assert parse_policy("# nothing yet\n") == NO_POLICY
    assert NO_POLICY.reach_for(cache(), "x") is ANYWHERE
    assert NO_POLICY.rule_for(cache()) is None


def test_a_farther_hop_without_a_wait_of_its_own_waits_as_long_as_a_nearer_one() -> None:
    policy = parse_policy('[[fills]]\nname = "a"\nwaits = {region = "1m"}')
    assert policy.reach_for(cache(), "x") == Reach(60.0, 60.0, 60.0, "a")


def test_all_faults_are_found_at_once_each_with_its_place() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(
            """
            limits = []
            [[caches]]
            name = "a"
            selector = "regoin=eu"
            rates = "fast"
            [[caches]]
            windows = "25:00,off"
            [[fills]]
            name = "b"
            hops = ["region", "moon"]
            waits = {region = "soon", all = "1m", origin = "2m", cluster = "1s"}
            [[fills]]
            name = "b"
            waits = {region = "5m", origin = "1m"}
            titels = "x"
            [[residency]]
            name = "c"
            regions = []
            """
        )
    places = [re.split("[:, ]", fault)[0] for fault in caught.value.faults]
    assert sorted(places) == sorted([
        "limits", "caches[0].selector", "caches[0].rates", "caches[1].windows", "caches[1].name",
        "fills[0].hops[1]", "fills[0].hops", "fills[0].waits.region", "fills[0].waits.all", "fills[0].waits.origin",
        "fills[0].waits.cluster", "fills[1].name", "fills[1].waits.origin", "fills[1].titels", "residency[0].regions",
    ])  # fmt: skip
    assert "did you mean titles?" in " ".join(caught.value.faults)
    assert "and 14 more" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "fills = 3", "fills = [3]", "[[fills]]\nname = 3", '[[fills]]\nname = ""', "[fills]\nname = 'a'", "= 1",
        "[[fills]]\nname='a'\nwaits = 3", "[[caches]]\nname = 'a'", "a = " + "[" * 5000, "[[fills]]\nname='a'\nhops=[]",
        "[[fills]]\nname='a'\nwaits={origin='9d'}", "[[fills]]\nname='a'\nwaits={origin=''}", "x" * 300_000,
        "[[fills]]\n" * 300, "[[fills]]\nname=\"a\\u0007\"", "[[fills]]\nname='a'\nselector=3", "a = " + "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


@pytest.mark.parametrize("part", ["a", '"."', "'='", '"\\""', '"#"', '"\u2028"'])
@pytest.mark.parametrize("form", ["{} = 1", "[{}]", "fills = {{{} = 1}}"])
def test_a_key_of_very_many_parts_takes_no_memory(form: str, part: str) -> None:
    wide = form.format(".".join([part] * (250_000 // (len(part) + 1))))
    tracemalloc.start()
    try:
        with pytest.raises(PolicyError, match="dots"):
            parse_policy(wide)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_dots_in_texts_and_comments_are_no_keys() -> None:
    nodes = ",".join(f"id=cache{number}.pop.example" for number in range(200))
    text = f'[[caches]] # {"." * 100}\nname = "a"\nselector = "{nodes}"\nrates = "3M"\n'
    assert parse_policy(text).caches[0].selector == nodes


def test_keys_of_as_many_parts_as_may_be_take_little_memory() -> None:
    line = ".".join(["a"] * fleet_policy.DOTS_MAX) + "{} = 1\n"
    text = "".join(line.format(number) for number in range(fleet_policy.POLICY_CHARS_MAX // len(line)))
    tracemalloc.start()
    try:
        with pytest.raises(PolicyError):
            parse_policy(text)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@given(st.text(max_size=200))
def test_whatever_is_sent_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(PolicyError):
        parse_policy(text)


values = st.recursive(
    st.text(max_size=8) | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "waits", "hops", "region", "origin", "titles", "regions"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["caches", "fills", "residency"]), st.lists(values, max_size=3)))
def test_no_table_of_any_shape_is_taken_for_a_fault_of_ours(document: dict[str, object]) -> None:
    reader = fleet_policy._Reader()
    reader.rules(document, "caches", reader.cache_rule)
    reader.rules(document, "fills", reader.fill_rule)
    reader.rules(document, "residency", reader.residency_rule)


names = st.text("abcxyz-*", min_size=1, max_size=6)


@st.composite
def policies(draw: st.DrawFn) -> FleetPolicy:
    lines: list[str] = []
    for name in draw(st.lists(names, unique=True, max_size=3)):
        hops = ["isp", *draw(st.lists(st.sampled_from([hop for hop in HOPS if hop != "isp"]), unique=True))]
        waits, wait_s = [], 0
        for hop in HOPS:
            wait_s += draw(st.integers(0, 5000))
            may_wait = "cluster" in hops if hop == "isp" else hop in hops and hop != "cluster"
            if may_wait and draw(st.booleans()):
                waits.append(f'{hop} = "{show_seconds(wait_s)}"')
        lines.append(f'[[fills]]\nname = "{name}"\ntitles = "{draw(names)}"\nhops = {hops!r}')
        lines.append(f"waits = {{{', '.join(waits)}}}")
        if draw(st.booleans()):
            lines.append(f'selector = "region={draw(names)}"')
    for name in draw(st.lists(names, unique=True, max_size=3)):
        lines.append(f'[[residency]]\nname = "{name}"\ntitles = "{draw(names)}"\nregions = ["{draw(names)}"]')
    for name in draw(st.lists(names, unique=True, max_size=3)):
        rate = draw(st.integers(1, 99))
        lines.append(f'[[caches]]\nname = "{name}"\nselector = "isp={draw(names)}"\nrates = "{rate}M"')
    for name in draw(st.lists(names, unique=True, max_size=3)):
        kinds = ['origins = "{}"\nbytes = "{}T"', 'origins = "{}"\nmoney = {}', 'tier = "regional"']
        budget = draw(st.sampled_from(kinds))
        lines.append(f'[[budgets]]\nname = "{name}"\n{budget.format(draw(names), draw(st.integers(1, 9)))}')
        lines += ["bytes = 5"] if "tier" in budget else []
    return parse_policy("\n".join(lines))


@given(policies())
def test_a_policy_is_the_same_after_it_was_stored(policy: FleetPolicy) -> None:
    assert msgspec.json.decode(msgspec.json.encode(policy), type=FleetPolicy) == policy


@given(policies(), policies())
def test_a_diff_is_empty_exactly_where_both_say_the_same(one: FleetPolicy, other: FleetPolicy) -> None:
    assert diff(one, one) == []
    assert (diff(one, other) == []) == (one == other)


@given(policies(), names, names, names)
def test_the_first_rule_that_fits_counts(policy: FleetPolicy, region: str, isp: str, title: str) -> None:
    node = NodeInfo("a1", isp, region)
    found = policy.fill_rule_for(node, title)
    before = policy.fills[: policy.fills.index(found)] if found else policy.fills
    assert not any(FleetPolicy(fills=(rule,)).fill_rule_for(node, title) for rule in before)
    reach = policy.reach_for(node, title)
    waits = [wait for wait in (reach.region_s, reach.world_s, reach.origin_s) if wait is not None]
    assert waits == sorted(waits)
    barred = policy.bars(node, title)
    assert bool(barred) == bool(reach.regions and region not in reach.regions)


def test_budgets_are_read_and_each_counts_that_fits() -> None:
    policy = parse_policy('[[budgets]]\nname = "a"\nbytes = "2TB"\n[[budgets]]\nname = "b"\norigins = "x*"\nbytes = 5')
    terms = [rule.terms(NO_PRICES) for rule in policy.budgets]
    assert [(rule.limit, one.fits("x/1"), one.fits("y")) for rule, one in zip(policy.budgets, terms, strict=True)] == [
        (2 * 10**12, True, True), (5, True, False)
    ]  # fmt: skip
    assert not any(one.fits(REGIONAL) for one in terms), "caches are no origins"


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ("", "bytes"), ("bytes = true", "bytes"), ("bytes = -1", "bytes"), ('bytes = "much"', "bytes"),
        ("bytes = 1\nmoney = 3", "budgets[0]"), ("money = true", "money"), ("money = 0", "money"),
        ("money = -3", "money"), ("money = inf", "money"), ("money = nan", "money"), ('money = "3 EUR"', "money"),
        ('tier = "peer"\nbytes = 1', "tier"), ('tier = "far"\nbytes = 1', "tier"), ("tier = 3\nbytes = 1", "tier"),
        ('tier = "regional"\nbytes = 1\norigins = "*"', "origins"), ('tier = "regional"\nmoney = 1', "money"),
    ],
)  # fmt: skip
def test_a_budget_that_cannot_be_meant_is_refused_with_its_place(wrong: str, place: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(f'[[budgets]]\nname = "a"\n{wrong}')
    assert any(fault.partition(":")[0].endswith(place) for fault in caught.value.faults)


def test_budgets_of_money_go_by_prices_and_those_of_the_tier_by_caches_beyond_the_isp() -> None:
    policy = parse_policy(
        '[[budgets]]\nname = "bill"\norigins = "https://cloud.example/*"\nmoney = 12.5\n'
        '[[budgets]]\nname = "transit"\ntier = "regional"\nbytes = "1TB"\n'
    )
    prices = Prices("EUR", [Price("https://cloud.example/", 0.02, 0.4), Price("https://other.example/", 9.0)])
    bill, transit = (rule.terms(prices) for rule in policy.budgets)
    assert [price.prefix for price in bill.prices] == ["https://cloud.example/"]
    gigabyte = OriginReport("https://cloud.example/film", requests=500, bytes_kept=10**9)
    assert bill.amount(gigabyte) == round((0.02 + 0.2) * MILLIONTHS)
    assert policy.budgets[0].limit == round(12.5 * MILLIONTHS)
    assert transit.fits(REGIONAL)
    assert not transit.fits("https://cloud.example/film")
    assert [rule.ledger for rule in policy.budgets] == ["bill\tmoney", "transit\tregional"]
    (doubt,) = doubts(policy, NO_PRICES)
    assert "--prices" in doubt
    assert not doubts(policy, prices)
    changed = parse_policy('[[budgets]]\nname = "bill"\nbytes = 5\n')
    assert any("money was 12.5 a night, is none" in line for line in diff(policy, changed))


@given(st.integers(0, 7 * 86400))
def test_a_wait_is_read_as_it_is_shown(wait_s: int) -> None:
    assert fleet_policy._seconds(show_seconds(wait_s), "x") == wait_s


@pytest.mark.parametrize(
    ("origins", "is_doubted"),
    [
        ("cloud.example", True), ("cloud.example/*", True), ("https:/cloud", True), ("http", True), ("*", False),
        ("*cloud.example*", False), ("http*", False), ("https://cloud.example/*", False), ("s3://films*", False),
        ("/srv/titles/*", False),
    ],
)  # fmt: skip
def test_a_budget_that_limits_nothing_is_doubted(origins: str, is_doubted: bool) -> None:
    policy = parse_policy(f'[[budgets]]\nname = "cloud"\norigins = "{origins}"\nbytes = "2TB"')
    said = [doubt.partition(": ")[2][:20] for doubt in doubts(policy)]
    assert said == ["no origin is limited"] * is_doubted


def test_a_diff_is_said_in_words() -> None:
    before = parse_policy(TEXT)
    after = parse_policy(TEXT.replace("1h30m", "2h").replace("no-cloud", "cheap").replace('"300M"', '"max"'))
    assert diff(before, after) == [
        "~ caches 'eu-nights': rates was inbound 300 MiB/s, is no limit",
        "- fills 'no-cloud': selector all; titles *; hops isp, region, all; waits none; minimum none",
        "~ fills 'films': waits was region 30s, origin 1h30m, is region 30s, origin 2h",
        "+ fills 'cheap': selector all; titles *; hops isp, region, all; waits none; minimum none",
    ]
    swapped = FleetPolicy(before.caches, before.fills[::-1], before.residency)
    assert diff(before, swapped) == ["~ fills: tried in the order no-cloud, films; was films, no-cloud"]


def test_clusters_count_where_the_hop_is_named() -> None:
    text = '[[fills]]\nname = "racks"\nhops = ["cluster", "isp", "region", "origin"]\nwaits = {}\n'
    for waits, reach, words in (
        ('{isp = "5s", origin = "1m"}', Reach(5.0, None, 60.0, "racks", isp_s=5.0), "cluster, isp after 5s, region"),
        ('{origin = "1m"}', Reach(0.0, None, 60.0, "racks", isp_s=0.0), "cluster, isp, region, never all"),
    ):
        policy = parse_policy(text.replace("{}", waits))
        found = policy.reach_for(cache(), "film")
        assert found == reach
        assert show_reach(found).startswith(words)
    assert parse_policy('[[fills]]\nname = "plain"\n').reach_for(cache(), "film").isp_s is None
    for wrong in (
        'hops = ["cluster", "region"]', 'waits = {isp = "5s"}', 'waits = {cluster = "5s"}',
        'hops = ["cluster", "isp"]\nwaits = {isp = "1m", origin = "5m"}',
    ):  # fmt: skip
        with pytest.raises(PolicyError):
            parse_policy(f'[[fills]]\nname = "x"\n{wrong}')
