//! A slow parser, written from the rules alone, byte by byte and without columns; bodies at random must give the same.

use proptest::prelude::*;

use super::*;

/// What a body holds, as the reference sees it.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    points: Vec<Point>,
    refused: Vec<usize>,
}

#[derive(Default)]
struct Reference {
    outcome: Outcome,
    roles: BTreeMap<(String, String), Role>,
}

/// Splits at unescaped `separator`s.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before = ' ';
    for char in text.chars() {
        if char == separator && before != '\\' {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(char);
        }
        before = char;
    }
    parts
}

fn unescape(text: &str) -> String {
    text.replace("\\,", ",").replace("\\=", "=").replace("\\ ", " ")
}

/// Cuts a body into lines: number of the first line and text, without blanks in front.
fn lines(body: &[u8]) -> Vec<(usize, Vec<u8>, bool)> {
    let (mut found, mut number, mut at) = (Vec::new(), 1, 0);
    while at < body.len() {
        let first = number;
        while at < body.len() && (body[at] == b' ' || body[at] == b'\t') {
            at += 1;
        }
        let (start, mut in_fields, mut in_text) = (at, false, false);
        let comment = body.get(at) == Some(&b'#');
        while at < body.len() && (in_text || body[at] != b'\n') {
            let before = |back: usize| if at >= start + back { body[at - back] } else { 0 };
            match body[at] {
                b'\\' if in_text => {
                    at += 1;
                    number += usize::from(body.get(at) == Some(&b'\n'));
                }
                b'"' if in_text => in_text = false,
                b'\n' => number += 1,
                b' ' if !in_fields && before(1) != b'\\' => in_fields = true,
                b'"' if in_fields && !comment && before(1) == b'=' && before(2) != b'\\' => in_text = true,
                _ => {}
            }
            at += 1;
        }
        let end = at.min(body.len());
        let mut line = &body[start..end];
        at += 1;
        number += 1;
        if line.ends_with(b"\r") && !in_text {
            line = &line[..line.len() - 1];
        }
        if !line.is_empty() && !comment {
            found.push((first, line.to_vec(), in_text));
        }
    }
    found
}

fn value(text: &str) -> Option<Scalar> {
    if text.len() >= 2 && text.starts_with('"') && text.ends_with('"') {
        let mut out = String::new();
        let mut chars = text[1..text.len() - 1].chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '"' => return None,
                '\\' if matches!(chars.peek(), Some('"' | '\\')) => out.extend(chars.next()),
                '\\' if chars.peek().is_none() => return None,
                _ => out.push(char),
            }
        }
        return Some(Scalar::Str(out));
    }
    match text {
        "t" | "T" | "true" | "True" | "TRUE" => return Some(Scalar::Bool(true)),
        "f" | "F" | "false" | "False" | "FALSE" => return Some(Scalar::Bool(false)),
        _ => {}
    }
    if let Some(number) = text.strip_suffix('i') {
        return number.parse().ok().map(Scalar::I64);
    }
    if let Some(number) = text.strip_suffix('u') {
        return number.parse().ok().map(Scalar::U64);
    }
    if text.chars().any(|char| !matches!(char, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')) {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| Scalar::F64(number.to_bits()))
}

fn kind(value: &Scalar) -> FieldType {
    match value {
        Scalar::F64(_) => FieldType::F64,
        Scalar::I64(_) => FieldType::I64,
        Scalar::U64(_) => FieldType::U64,
        Scalar::Bool(_) => FieldType::Bool,
        Scalar::Str(_) => FieldType::Str,
    }
}

/// Cuts fields and time apart: a comma or space outside of quotes that open behind `=`.
fn fields(text: &str) -> Option<(Vec<(String, String)>, String)> {
    let chars: Vec<char> = text.chars().collect();
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let mut name = String::new();
        loop {
            let char = *chars.get(at)?;
            if matches!(char, '=' | ',' | ' ' | '\n') && !name.ends_with('\\') {
                if char != '=' || name.is_empty() {
                    return None;
                }
                break;
            }
            name.push(char);
            at += 1;
        }
        at += 1;
        let mut value = String::new();
        let quoted = chars.get(at) == Some(&'"');
        while let Some(&char) = chars.get(at) {
            let closed = !quoted || (value.len() > 1 && value.ends_with('"'));
            if closed && (char == ',' || char == ' ') {
                break;
            }
            if closed && quoted {
                return None;
            }
            value.push(char);
            at += 1;
            if quoted && char == '\\' {
                value.push(*chars.get(at)?);
                at += 1;
                // An escaped quote must not look like a closing one.
                if value.ends_with('"') {
                    value.pop();
                    value.pop();
                    value.push('\u{1}');
                }
            }
        }
        fields.push((name, value.replace('\u{1}', "\\\"")));
        match chars.get(at) {
            Some(',') => at += 1,
            _ => return Some((fields, chars[at..].iter().collect())),
        }
    }
}

impl Reference {
    fn line(&mut self, line: &str) -> Option<Point> {
        let head_end = line.char_indices().find(|&(at, char)| char == ' ' && !line[..at].ends_with('\\'))?.0;
        let mut parts = split(&line[..head_end], ',').into_iter();
        let measurement = unescape(&parts.next()?);
        let (mut tags, mut roles) = (BTreeMap::new(), Vec::new());
        for part in parts {
            let pair = split(&part, '=');
            let [key, text] = pair.as_slice() else { return None };
            if key.is_empty() || text.is_empty() || tags.insert(unescape(key), unescape(text)).is_some() {
                return None;
            }
            roles.push((unescape(key), Role::Tag));
        }
        let (pairs, time) = fields(line[head_end..].trim_start_matches(' '))?;
        let mut fields = BTreeMap::new();
        for (name, text) in pairs {
            let value = value(&text)?;
            roles.push((unescape(&name), Role::Field(kind(&value))));
            if fields.insert(unescape(&name), value).is_some() {
                return None;
            }
        }
        let time = match time.trim_matches(' ') {
            "" => DEFAULT_TIME,
            text if text.starts_with('+') => return None,
            text => text.parse().ok()?,
        };
        if measurement.is_empty() {
            return None;
        }
        let mut all = self.roles.clone();
        for (name, role) in roles {
            let reserved = name == "time" || name.starts_with("weir_");
            if reserved || *all.entry((measurement.clone(), name)).or_insert(role) != role {
                return None;
            }
        }
        self.roles = all;
        Some(Point { measurement, tags, fields, time })
    }

    fn body(body: &[u8]) -> Outcome {
        let mut reference = Self::default();
        for (number, line, open) in lines(body) {
            let point = std::str::from_utf8(&line).ok().filter(|_| !open).and_then(|line| reference.line(line));
            match point {
                Some(point) => reference.outcome.points.push(point),
                None => reference.outcome.refused.push(number),
            }
        }
        let mut order: Vec<String> = Vec::new();
        for point in &reference.outcome.points {
            if !order.contains(&point.measurement) {
                order.push(point.measurement.clone());
            }
        }
        let place = |point: &Point| order.iter().position(|name| *name == point.measurement);
        reference.outcome.points.sort_by_key(place);
        reference.outcome
    }
}

fn options() -> Options {
    let mut options = Options::new(DEFAULT_TIME, 7);
    options.rejected_max = 1_000;
    options
}

fn outcome(parsed: &Parsed) -> Outcome {
    Outcome { points: points(parsed), refused: parsed.rejected.iter().map(|line| line.line_number).collect() }
}

/// Compares with the reference, and every way to cut the body in two with the whole.
fn check_body(body: &[u8]) {
    let known = Known::default();
    let whole = parse_with(&known, options(), &[body]);
    assert_eq!(outcome(&whole), Reference::body(body), "{:?}", String::from_utf8_lossy(body));
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(parse_with(&known, options(), &bytes), whole, "byte by byte");
    for cut in 0..=body.len() {
        assert_eq!(parse_with(&known, options(), &[&body[..cut], &body[cut..]]), whole, "cut at {cut}");
    }
}

/// Pieces of lines that make sense often enough, and nonsense often enough.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&'static [u8]> = vec![
        b"m",
        b"n",
        b"a",
        b"b",
        b"=",
        b"=",
        b",",
        b",",
        b" ",
        b" ",
        b"\n",
        b"\n",
        b"\\",
        b"\"",
        b"\"",
        b"1",
        b"-5",
        b"i",
        b"u",
        b"t",
        b"1e3",
        b".",
        b"#",
        b"\r",
        b"\r\n",
        b"\t",
        b"time",
        b"weir_",
        "é".as_bytes(),
        b"\xff",
        b"m f=1\n",
        b"m,a=b ",
        b"f=",
        b"g=\"x\"",
        b" 17\n",
        b"1700000000000000000",
    ];
    proptest::collection::vec(proptest::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat())
}

/// Lines that are mostly good.
fn line() -> impl Strategy<Value = String> {
    let name =
        proptest::sample::select(vec!["a", "b", "host", "x\\ y", "z\\,\\=", "q\\w", "é", "\"", "t1", "t2", "t3"]);
    let value = proptest::sample::select(vec![
        "1",
        "-2.5",
        "1e-7",
        "0.1234567890123456789",
        "58i",
        "-9007199254740993i",
        "123456789012i",
        "7u",
        "t",
        "FALSE",
        "\"\"",
        "\"text\"",
        "\"a\\\"b\\\\\"",
        "\"two\nlines, and=\"",
        "123456789.123456789",
        "3.141592653589793",
        "nan",
        "1x",
    ]);
    let tags = proptest::collection::vec((name.clone(), name.clone()), 0..4);
    let fields = proptest::collection::vec((name.clone(), value), 1..5);
    let time =
        proptest::sample::select(vec!["", "", " 1", " -1", " 1700000000000000000", " 99999999999999999999", " x"]);
    let end = proptest::sample::select(vec!["\n", "\n", "\n", "\r\n", " \n", "\n\n"]);
    let measurement = proptest::sample::select(vec!["m", "m", "m", "n", "m\\ n"]);
    (measurement, tags, fields, time, end).prop_map(|(measurement, tags, fields, time, end)| {
        let join = |pairs: Vec<(&str, &str)>| {
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
        };
        let comma = if tags.is_empty() { "" } else { "," };
        format!("{measurement}{comma}{} {}{time}{end}", join(tags), join(fields))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nonsense_is_read_as_the_reference_reads_it(body in soup()) {
        check_body(&body);
    }

    #[test]
    fn lines_are_read_as_the_reference_reads_them(lines in proptest::collection::vec(line(), 0..12)) {
        check_body(lines.concat().as_bytes());
    }

    #[test]
    fn short_limits_hold_however_the_body_is_cut(
        lines in proptest::collection::vec(line(), 0..8), max in 5usize..60, size in 1usize..30,
    ) {
        let body = lines.concat();
        let mut options = options();
        options.line_bytes_max = max;
        options.rejected_line_bytes_max = max / 2;
        let known = Known::default();
        let whole = parse_with(&known, options.clone(), &[body.as_bytes()]);
        let chunks: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
        prop_assert_eq!(parse_with(&known, options, &chunks), whole);
    }
}
