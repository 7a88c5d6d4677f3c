"""Prometheus' text format as it is written, and the reader that the other tests rely on."""

import pytest
from support.prometheus import parse

from server.observing.exposition import Family, Histogram, Sample, alone, labels_of, render

HEAD = "# HELP a What it is.\n# TYPE a gauge\n"
BUCKETS = (
    "# HELP h H.\n# TYPE h histogram\n"
    'h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 3\nh_sum 9.5\nh_count 3\n'
)


def test_a_histogram_counts_up_to_and_with_each_bound():
    histogram = Histogram((1, 2.5, 10))
    for value in (0, 1, 1.1, 2.5, 11, 400):
        histogram.observe(value)

    text = render([Family("took_seconds", "histogram", "Time.", histogram.samples('a="b"'))])

    assert text.decode() == (
        "# HELP took_seconds Time.\n"
        "# TYPE took_seconds histogram\n"
        'took_seconds_bucket{a="b",le="1"} 2\n'
        'took_seconds_bucket{a="b",le="2.5"} 4\n'
        'took_seconds_bucket{a="b",le="10"} 4\n'
        'took_seconds_bucket{a="b",le="+Inf"} 6\n'
        'took_seconds_sum{a="b"} 415.6\n'
        'took_seconds_count{a="b"} 6\n'
    )
    assert parse(text.decode()).total("took_seconds_bucket", le="2.5") == 4


def test_any_name_from_a_config_is_read_as_it_was_written():
    odd = 'a "quoted"\\ name,\nwith le="1"} é'
    text = render([alone("thing", "gauge", "T.", 7, labels_of({"model": odd, "b": ""}))])

    found = parse(text.decode())

    assert found["thing"] == {frozenset({("model", odd), ("b", "")}): 7}


def test_a_family_without_samples_is_left_out():
    assert render([Family("x_total", "counter", "X.", ())]) == b""


@pytest.mark.parametrize("value", [0, 5, 0.25, 1e-07, 1e21, -3])
def test_numbers_are_read_as_they_were_written(value):
    text = render([Family("a", "gauge", "A.", [Sample("", value)])]).decode()

    assert parse(text).total("a") == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEAD + "a 1", "no end"),
        (HEAD + "a 1\na 1\n", "twice"),
        (HEAD + "a 1\n" + HEAD + "a 2\n", "twice"),
        (HEAD + "b 1\n", "among others"),
        (HEAD + "a_sum 1\n", "another family"),
        ("a 1\n", "before its family"),
        ("# TYPE a gauge\na 1\n", "without its HELP"),
        (HEAD.replace("gauge", "counter") + "a 1\n", "a counter's name"),
        (HEAD.replace("gauge", "thing") + "a 1\n", "unknown type"),
        (HEAD + "a one\n", "not a number"),
        (HEAD + "a  1\n", "not a sample"),
        (HEAD + 'a{b="1",} 1\n', "end with a comma"),
        (HEAD + 'a{b="1" c="2"} 1\n', "labels"),
        (HEAD + 'a{b="1",b="2"} 1\n', "a label twice"),
        (HEAD + 'a{b="\\q"} 1\n', "labels"),
        (HEAD + "a{b=1} 1\n", "labels"),
        (HEAD + 'a{__b="1"} 1\n', "reserved"),
        (HEAD + "\na 1\n", "not a sample"),
        (BUCKETS.replace("count 3", "count 4"), "h"),
        (BUCKETS.replace('le="1"} 1', 'le="1"} 4'), "h"),
        (BUCKETS.replace('h_bucket{le="+Inf"} 3\n', ""), "h"),
        (BUCKETS.replace("h_sum 9.5\n", ""), "h_sum"),
    ],
)
def test_the_reader_refuses_what_bends_the_format(text, problem):
    with pytest.raises((AssertionError, KeyError), match=problem):
        parse(text)


def test_the_reader_reads_what_keeps_it():
    assert parse(BUCKETS).total("h_sum") == 9.5
