"""Records: what goes in comes out, they stay small, and no bytes do harm."""

import json
import math
import tracemalloc
import zlib
from dataclasses import replace

import hypothesis
import pytest
from helpers.records import a_site, an_event
from hypothesis import strategies as st

from keras_grow.logs import checking, records
from keras_grow.logs.checking import RecordError
from keras_grow.logs.events import GrowthEvent, SiteGrowth
from keras_grow.logs.networks import Network, Node

TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40)
COUNTS = st.integers(0, 2**40)
POSITIVE = st.floats(0, 1e30, allow_nan=False)
MAYBE = st.none() | POSITIVE

SITE = st.builds(
    lambda before, added, **rest: SiteGrowth(
        width_before=before, width_after=before + added, **rest
    ),
    before=st.integers(0, 5000),
    added=st.integers(0, 300),
    name=TEXTS,
    producers=st.lists(TEXTS, max_size=3),
    consumers=st.lists(TEXTS, max_size=3),
    method=TEXTS,
    form=TEXTS,
    singular_values=st.lists(POSITIVE, max_size=30).map(lambda v: sorted(v, reverse=True)),
    gradient_norm=MAYBE,
    existing_norm=MAYBE,
    rank=st.none() | st.integers(0, 1000),
    notes=st.lists(TEXTS, max_size=2),
    kind=st.sampled_from(["widen", "insert", "bridge"]),
)
EVENT = st.builds(
    GrowthEvent,
    step=COUNTS,
    epoch=COUNTS,
    sites=st.lists(SITE, max_size=4),
    parameters_before=COUNTS,
    parameters_after=COUNTS,
    flops_before=POSITIVE,
    flops_after=POSITIVE,
    loss=st.none() | st.floats(-1e30, 1e30),
    deviation=MAYBE,
    tolerance=MAYBE,
    seconds=st.dictionaries(TEXTS, POSITIVE, max_size=4),
    error=st.none() | TEXTS,
    notes=st.lists(TEXTS, max_size=3),
    skipped=st.dictionaries(TEXTS, TEXTS, max_size=3),
    scores=st.dictionaries(TEXTS, st.dictionaries(TEXTS, POSITIVE, max_size=2), max_size=2),
    dry_run=st.booleans(),
    time=st.floats(0, 2e9),
)


def close(a, b, digits):
    return (a is None) == (b is None) and (a is None or math.isclose(a, b, rel_tol=10.0**-digits))


class TestRoundTrips:
    @hypothesis.settings(max_examples=40)
    @hypothesis.given(EVENT)
    def test_growth_in_short(self, event):
        found = records.decode_growth(records.encode_growth(event), event.step, event.time)
        wanted = records.in_short(event)
        for name in ("loss", "deviation", "gradient_norm", "flops_before", "flops_after"):
            assert close(getattr(found, name), getattr(wanted, name), 8), name
        assert {k: 0 for k in found.seconds} == {k: 0 for k in wanted.seconds}
        unrounded = {
            name: getattr(wanted, name)
            for name in (
                "loss",
                "deviation",
                "tolerance",
                "gradient_norm",
                "existing_norm",
                "flops_before",
                "flops_after",
                "seconds",
            )
        }
        assert replace(found, **unrounded) == wanted

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(st.lists(SITE, max_size=6))
    def test_sites(self, sites):
        found = records.decode_sites(records.encode_sites(sites))
        assert len(found) == len(sites)
        for got, site in zip(found, sites, strict=True):
            assert len(got.singular_values) == len(site.singular_values)
            for a, b in zip(got.singular_values, site.singular_values, strict=True):
                assert math.isclose(a, b, rel_tol=6e-4)
            assert close(got.gradient_norm, site.gradient_norm, 3.2)
            assert close(got.existing_norm, site.existing_norm, 3.2)
            rounded = {n: getattr(site, n) for n in ("gradient_norm", "existing_norm")}
            assert replace(got, singular_values=site.singular_values, **rounded) == site

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(
        TEXTS,
        COUNTS,
        st.lists(st.builds(Node, TEXTS, TEXTS, st.none() | COUNTS, st.none() | TEXTS, COUNTS)),
        st.data(),
    )
    def test_networks(self, name, step, nodes, data):
        pairs = st.tuples(*[st.integers(0, len(nodes) - 1)] * 2) if nodes else st.nothing()
        network = Network(name, step, tuple(nodes), tuple(data.draw(st.lists(pairs))))
        assert records.decode_network(records.encode_network(network)) == network

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(EVENT)
    def test_whole_events(self, event):
        assert records.decode_event(json.dumps(event.to_dict())) == event

    def test_what_numpy_counted_is_written_too(self):
        import numpy as np

        site = a_site(rank=np.int64(3), gradient_norm=np.float32(0.5))
        site.width_after = np.int32(24)
        found = records.decode_growth(records.encode_growth(an_event(sites=[site])), 1, 2.0)
        assert found.added == 8
        assert found.gradient_norm == 0.5
        assert records.decode_sites(records.encode_sites([site]))[0].rank == 3

    def test_what_is_not_finite_is_not_known(self):
        event = an_event(deviation=math.nan, loss=math.inf)
        found = records.decode_growth(records.encode_growth(event), 1, 2.0)
        assert found.loss is None
        assert found.deviation is None
        assert "the deviation of the outputs was not finite" in found.notes


class TestSizes:
    def test_a_growth_of_100_sites_takes_a_few_hundred_bytes(self):
        event = an_event(sites=[a_site(i) for i in range(100)])
        assert len(records.encode_growth(event)) < 600

    def test_100_sites_take_less_than_ten_thousand_bytes(self):
        assert len(records.encode_sites([a_site(i, 200) for i in range(100)])) < 10_000

    def test_many_words_are_cut_and_say_so(self):
        skipped = {f"site_{i}": "no gradient " * 200 for i in range(300)}
        event = an_event(skipped=skipped, notes=["cut " * 200] * 500)
        data = records.encode_growth(event)
        found = records.decode_growth(data, 1, 2.0)
        assert len(data) < 8000
        assert "490 more notes are not shown" in found.notes
        assert "290 more sites were skipped" in found.notes

    def test_spectra_share_a_budget_and_tell_their_length(self):
        wide = [a_site(i, 700) for i in range(3)]
        narrow = [a_site(i, 5) for i in range(3, 50)]
        found = records.decode_sites(records.encode_sites([*wide, *narrow]))
        assert [len(s.singular_values) for s in found[3:]] == [5] * 47
        assert [len(s.singular_values) for s in found[:3]] == [records.SPECTRUM_LIMIT] * 3
        assert [s.spectrum_size for s in found] == [700] * 3 + [None] * 47

    def test_the_values_used_are_kept_however_many_sites_there_are(self):
        sites = [a_site(i, 60, width_after=36 + i) for i in range(400)]
        found = records.decode_sites(records.encode_sites(sites))
        assert {len(s.singular_values) for s in found} == {20 + records.BEHIND_THE_CUT}
        assert {s.spectrum_size for s in found} == {60}

    def test_cut_twice_the_length_is_still_the_first(self):
        once = records.decode_sites(records.encode_sites([a_site(0, 700)]))
        once[0].singular_values = once[0].singular_values[:600]
        twice = records.decode_sites(records.encode_sites(once))
        assert twice[0].spectrum_size == 700


GOOD = json.loads(records.encode_growth(an_event()))
BAD_GROWTHS = {
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "NaN": json.dumps({**GOOD, "loss": math.nan}).encode(),
    "infinity": json.dumps({**GOOD, "loss": math.inf}).encode(),
    "too large": json.dumps({**GOOD, "loss": 10**400}).encode(),
    "too many digits": b'{"epoch": ' + b"9" * 10_000 + b"}",
    "a list": b"[]",
    "null": b"null",
    "nothing": b"",
    "a field is missing": b'{"epoch": 1}',
    "a text for a number": json.dumps({**GOOD, "epoch": "<script>"}).encode(),
    "truth for a number": json.dumps({**GOOD, "epoch": True}).encode(),
    "below zero": json.dumps({**GOOD, "parameters_after": -1}).encode(),
    "a number for a text": json.dumps({**GOOD, "error": 3}).encode(),
    "a table for a list": json.dumps({**GOOD, "notes": {"a": 1}}).encode(),
    "a list for a table": json.dumps({**GOOD, "seconds": [1, 2]}).encode(),
    "texts among seconds": json.dumps({**GOOD, "seconds": {"a": "b"}}).encode(),
    "deep": b"[" * 200_000,
    "deep tables": b'{"epoch":' * 100_000,
    "a long list": b"[" + b"0," * 2_000_000 + b"0]",
    "a long text": b'"' + b"a" * (17 * 2**20) + b'"',
}


class TestHostileBytes:
    @pytest.mark.parametrize("name", BAD_GROWTHS)
    def test_growths_are_refused_in_words(self, name):
        with pytest.raises(RecordError) as found:
            records.decode_growth(BAD_GROWTHS[name], 1, 2.0)
        assert 10 < len(str(found.value)) < 300

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(st.binary(max_size=200))
    def test_any_bytes(self, data):
        for decode in (
            lambda d: records.decode_growth(d, 0, 0.0),
            records.decode_sites,
            records.decode_network,
            records.decode_event,
            records.decode_events,
            lambda d: records.decode_sites(zlib.compress(d)),
        ):
            with pytest.raises(RecordError):
                decode(data)

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    )

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(JSON, st.data())
    def test_any_value_in_any_place(self, value, data):
        """Either a `RecordError`, or something that can be written down and read again."""
        site = dict(zip(GOOD_COLUMNS, GOOD_COLUMNS.values(), strict=True))
        place = data.draw(st.sampled_from(sorted(site)))
        site[place] = data.draw(st.sampled_from([value, [value, value]]))
        try:
            sites = records.decode_sites(zlib.compress(json.dumps(site).encode()))
        except RecordError:
            return
        assert len(records.decode_sites(records.encode_sites(sites))) == len(sites)

    @hypothesis.settings(max_examples=40)
    @hypothesis.given(JSON, st.data())
    def test_any_value_in_any_event(self, value, data):
        event = an_event().to_dict()
        event[data.draw(st.sampled_from(sorted(event)))] = value
        try:
            found = records.decode_event(json.dumps(event))
        except RecordError:
            return
        records.encode_growth(found)
        records.encode_sites(found.sites)

    def test_bombs_are_not_unpacked(self):
        bomb = zlib.compress(b"[" + b"0" * 60_000_000 + b"]", 9)
        assert len(bomb) < 100_000
        tracemalloc.start(1)
        for decode in (records.decode_sites, records.decode_network):
            with pytest.raises(RecordError, match="16 MB"):
                decode(bomb)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50 * 2**20

    def test_cut_off_records(self):
        data = records.encode_sites([a_site(i) for i in range(5)])
        for end in range(len(data)):
            with pytest.raises(RecordError):
                records.decode_sites(data[:end])

    def test_columns_of_different_lengths(self):
        columns = {**GOOD_COLUMNS, "width_after": [1]}
        with pytest.raises(RecordError, match="different lengths"):
            records.decode_sites(zlib.compress(json.dumps(columns).encode()))

    @pytest.mark.parametrize("edge", [[0], [0, 5], [-1, 0], [0, True], "01", [0.0, 1]])
    def test_edges_to_nowhere(self, edge):
        columns = {"path": ["a", "b"], "kind": ["A", "B"], "width": [1, None],
                   "site": [None] * 2, "parameters": [0, 0]}  # fmt: skip
        network = {"name": "n", "step": 0, "nodes": columns, "edges": [edge]}
        with pytest.raises(RecordError, match="edge"):
            records.decode_network(zlib.compress(json.dumps(network).encode()))

    def test_markup_is_left_as_text_and_control_characters_are_not(self):
        name = "<img src=x onerror=alert(1)>\x1b[2J\x00\u202e"
        found = records.decode_sites(records.encode_sites([a_site(name=name)]))[0].name
        assert found.startswith("<img src=x onerror=alert(1)>")
        assert "\x1b" not in found
        assert "\x00" not in found

    def test_half_a_surrogate_pair(self):
        data = json.dumps({**GOOD, "error": "\ud800"}).encode()
        records.decode_growth(data, 0, 0.0).error.encode("utf-8")
        assert records.decode_growth(records.encode_growth(an_event(error="\ud800")), 0, 0.0)

    def test_texts_without_end(self):
        data = json.dumps({**GOOD, "error": "a" * 10**6}).encode()
        assert len(records.decode_growth(data, 0, 0.0).error) == checking.MAX_TEXT

    def test_fields_of_a_later_version_are_left_alone(self):
        data = json.dumps({**GOOD, "colour": ["red"]}).encode()
        assert records.decode_growth(data, 0, 0.0).epoch == 2

    def test_bad_entries_among_good_ones_are_named(self):
        good = an_event().to_dict()
        found, left_out = records.decode_events(json.dumps([good, {**good, "step": "x"}, 3]))
        assert found == [an_event()]
        assert [line[:8] for line in left_out] == ["Entry 2 ", "Entry 3 "]


GOOD_COLUMNS = json.loads(
    zlib.decompress(records.encode_sites([a_site(0, notes=["a"]), a_site(1, notes=["b"])]))
)


class TestSessions:
    def test_going_on_from_an_earlier_step_takes_back_what_came_after(self):
        sessions = records.Sessions([(0, 10.0), (100, 20.0)])
        assert not sessions.stale(100, 15.0)
        assert sessions.stale(101, 15.0)
        assert not sessions.stale(101, 21.0)
        assert sessions.resumed == [100]

    def test_sessions_are_taken_back_too(self):
        assert records.Sessions([(0, 10.0), (100, 20.0), (50, 30.0)]).resumed == [50]

    def test_starting_anew_takes_back_everything(self):
        sessions = records.Sessions([(0, 10.0), (100, 20.0), (0, 30.0)])
        assert sessions.stale(0, 10.0)
        assert sessions.resumed == []
