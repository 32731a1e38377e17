//! JUnit XML: the times of test cases.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use weir_base::{Kind, Timestamp};

use super::{Imported, instant, row};
use crate::row::Labels;
use crate::{Error, Result};

/// A test case that is open.
struct Case {
    name: String,
    labels: Labels,
    seconds: Option<f64>,
    failed: bool,
    skipped: bool,
}

pub(super) fn read(text: &str, now: Timestamp, into: &mut Imported) -> Result<()> {
    let bad = |error: quick_xml::Error| Error::wrap(Kind::Invalid, "not XML", error);
    let mut reader = Reader::from_str(text);
    let (mut case, mut time, mut seen) = (None, now, false);
    loop {
        match reader.read_event().map_err(bad)? {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag) if matches!(tag.name().as_ref(), b"testsuite" | b"testsuites") => {
                seen = true;
                time = attribute(&tag, "timestamp").and_then(|text| instant(&text)).unwrap_or(time);
            }
            Event::Start(tag) if tag.name().as_ref() == b"testcase" => case = Some(open(&tag)),
            Event::Empty(tag) if tag.name().as_ref() == b"testcase" => close(open(&tag), time, into),
            Event::Start(tag) | Event::Empty(tag) => {
                if let Some(case) = &mut case {
                    case.failed |= matches!(tag.name().as_ref(), b"failure" | b"error");
                    case.skipped |= tag.name().as_ref() == b"skipped";
                }
            }
            Event::End(tag) if tag.name().as_ref() == b"testcase" => {
                if let Some(case) = case.take() {
                    close(case, time, into);
                }
            }
            _ => {}
        }
    }
    if seen { Ok(()) } else { Err(Error::invalid("there is no <testsuite>")) }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = tag.try_get_attribute(name).ok()??;
    let raw = std::str::from_utf8(&found.value).ok()?;
    Some(quick_xml::escape::unescape(raw).map_or_else(|_| raw.to_owned(), |text| text.into_owned()))
}

fn open(tag: &BytesStart<'_>) -> Case {
    let labels = ["classname", "file"].iter().filter_map(|name| Some(((*name).to_owned(), attribute(tag, name)?)));
    Case {
        name: attribute(tag, "name").unwrap_or_default(),
        labels: labels.filter(|(_, value)| !value.is_empty()).collect(),
        seconds: attribute(tag, "time").and_then(|text| text.replace(',', "").parse().ok()),
        failed: false,
        skipped: false,
    }
}

fn close(case: Case, time: Timestamp, into: &mut Imported) {
    if case.skipped {
        return;
    }
    let end = time + into.rows.len() as i64;
    let mut taken = case.seconds.and_then(|seconds| row(&case.name, case.labels, end, seconds * 1e9));
    if let Some(taken) = &mut taken {
        taken.failures = u64::from(case.failed);
    }
    into.take(&case.name, taken);
}
