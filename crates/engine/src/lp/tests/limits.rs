//! Every limit, reached (S1).

use super::*;

fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::new(0, 1);
    change(&mut options);
    options
}

fn check(options: Options, body: &str, rows: usize, reason: &str) {
    let parsed = parse_with(&Known::default(), options, &[body.as_bytes()]);
    assert_eq!(parsed.rejected[0].reason, reason);
    assert_eq!(parsed.rejected_count, 1);
    assert_eq!(points(&parsed).len(), rows);
}

/// S1: lines, names, tag values, columns, measurements.
#[test]
fn s1_parts_past_their_limit_refuse_the_line_and_name_the_limit() {
    let short = |max| options(|options| options.line_bytes_max = max);
    let line = "m,host=a usage=123456789 5";
    let body = format!("m f=1\n{line}6\n{line}\nm f=1\n");
    check(short(line.len()), &body, 3, "the line is longer than 26 bytes (limit line_bytes_max)");
    let tight = || options(|options| (options.name_bytes_max, options.tag_value_bytes_max) = (5, 7));
    check(tight(), "longer f=1\nshort f=1", 1, "the measurement is longer than 5 bytes (limit name_bytes_max)");
    check(tight(), "m longer=1\nm short=1", 1, "a field's name is longer than 5 bytes (limit name_bytes_max)");
    check(tight(), "m,longer=1 f=1\nm,short=1 f=1", 1, "a tag's name is longer than 5 bytes (limit name_bytes_max)");
    let reason = "the value of tag 'a' is longer than 7 bytes (limit tag_value_bytes_max)";
    check(tight(), "m,a=12345678 f=1\nm,a=1234567 f=1", 1, reason);
    let columns = options(|options| options.columns_max = 3);
    let reason = "more than 3 columns in table 'm' (limit columns_max)";
    check(columns, "m,t=1 a=1,b=1\nm c=1\nm,t=2 b=2\nn c=1,d=2,e=3", 3, reason);
    let tables = options(|options| options.tables_max = 2);
    check(tables, "a f=1\nb f=1\nc f=1\nb f=2\n", 3, "more than 2 measurements in a body (limit tables_max)");
}

#[test]
fn s1_columns_of_the_schema_count() {
    let known = Known::default().with("m", &[("a", Role::Tag), ("b", Role::Field(FieldType::F64))]);
    let options = options(|options| options.columns_max = 3);
    let parsed = parse_with(&known, options, &[b"m,a=1 b=1,c=1\nm d=1\nm,a=2 c=3"]);
    assert_eq!((parsed.rows, parsed.rejected_count), (2, 1));
}

/// S1: a hundred thousand columns, in one line and in as many.
#[test]
fn s1_a_hundred_thousand_columns_are_refused() {
    let wide: Vec<_> = (0..100_000).map(|column| format!("c{column}=1")).collect();
    let reason = "more than 2000 columns in table 'm' (limit columns_max)";
    let body = format!("m {}\nm f=1\n", wide[..60_000].join(","));
    check(options(|_| {}), &body, 1, reason);
    let lines: String = wide.iter().map(|field| format!("m {field}\n")).collect();
    let parsed = parse_with(&Known::default(), Options::new(0, 1), &[lines.as_bytes()]);
    assert_eq!((parsed.rows, parsed.rejected_count), (2_000, 98_000));
    assert_eq!(parsed.rejected.len(), 100);
}

/// S1: the parser stops before its columns take more memory than they may.
#[test]
fn s1_memory_is_bounded() {
    let body: String = (0..2_000).map(|column| format!("m c{column}=1\n")).collect();
    let max = 4 << 20;
    let known = Known::default();
    let mut parser = Parser::new(Box::new(&known), options(|options| options.bytes_max = max));
    let mut fed = Ok(());
    for _ in 0..100 {
        fed = fed.and_then(|()| parser.feed(body.as_bytes()));
        assert!(parser.bytes_held() <= max + (1 << 20));
    }
    let error = fed.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit);
    assert_eq!(error.to_string(), "the rows of the body take more than 4 MiB of memory (limit bytes_max)");
    assert!(parser.feed(b"m f=1\n").is_err());
    assert!(parser.finish().is_err());
}

/// What is held covers what the rows take, and refused lines take nothing.
#[test]
fn bytes_held_cover_the_rows() {
    let mut body = String::new();
    for row in 0..5_000 {
        body.push_str(&format!("m{},h={} s=\"{row} some text\",i{}=1i,b=t {row}\n", row % 7, row % 400, row % 50));
    }
    let known = Known::default();
    let mut parser = Parser::new(Box::new(&known), Options::new(0, 1));
    parser.feed(body.as_bytes()).unwrap();
    let held = parser.bytes_held();
    for row in 0..5_000 {
        parser.feed(format!("x{row},a=1 f{row}=1,g=\"text\" x\nm1,z{row}=1 k{row}=1 x\n").as_bytes()).unwrap();
    }
    let wasted = parser.bytes_held() - held;
    assert!(wasted < 4_096, "{wasted}");
    let parsed = parser.finish().unwrap();
    assert_eq!(parsed.rejected_count, 10_000);
    let bytes: usize = parsed.tables.iter().map(|table| table.rows.bytes()).sum();
    assert!(held >= bytes && held < 3 * bytes, "{held} {bytes}");
}

/// S1: refused lines are kept up to a number and a length, and counted past it.
#[test]
fn s1_the_list_of_refused_lines_is_bounded() {
    let options = options(|options| (options.rejected_max, options.rejected_line_bytes_max) = (2, 5));
    let parsed = parse_with(&Known::default(), options, &["béééé\nabcde\nx\n".as_bytes()]);
    assert_eq!(parsed.rejected_count, 3);
    assert_eq!(parsed.rejected.len(), 2);
    assert_eq!(parsed.rejected[0].original_line, "béé...");
    assert_eq!(parsed.rejected[1].original_line, "abcde");
}

#[test]
fn what_is_shown_of_a_line_too_long_does_not_depend_on_chunks() {
    let bodies: [&[u8]; 5] = [b"\xff\x01\0\n", b"abcd\r\n", b"abc\r\nm f=1\n", b"m f=\"a\r\nb\"\r\n", b"abcdefgh\n"];
    for body in bodies {
        for (line_bytes_max, rejected_line_bytes_max) in [(1, 512), (1, 1), (2, 4), (2, 7), (3, 8)] {
            let options = || Options { line_bytes_max, rejected_line_bytes_max, ..Options::new(DEFAULT_TIME, 1) };
            let whole = parse_with(&Known::default(), options(), &[body]);
            assert!(whole.rejected_count > 0);
            for size in 1..body.len() {
                let chunks: Vec<&[u8]> = body.chunks(size).collect();
                assert_eq!(parse_with(&Known::default(), options(), &chunks), whole, "{body:?} by {size}");
            }
        }
    }
}
