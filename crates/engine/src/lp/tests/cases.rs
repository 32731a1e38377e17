//! Tables of lines: what they stand for, or why they are refused.

use super::*;

fn f64(value: f64) -> Scalar {
    Scalar::F64(value.to_bits())
}

fn text(value: &str) -> Scalar {
    Scalar::Str(value.to_owned())
}

#[test]
fn names_and_tags() {
    let one = [("f", Scalar::I64(1))];
    for (line, tags) in [
        ("m f=1i 5", &[][..]),
        ("m,a=b f=1i 5", &[("a", "b")]),
        ("m,b=2,a=1 f=1i 5", &[("a", "1"), ("b", "2")]),
        (r"m,a\,\ \=b=c\,\ \=d f=1i 5", &[("a, =b", "c, =d")]),
        (r"m,a=x\y f=1i 5", &[("a", r"x\y")]),
        (r"m,a=x\\y f=1i 5", &[("a", r"x\\y")]),
        (r"m,a=x\\,b=y f=1i 5", &[("a", r"x\,b=y")][..0]),
        ("m,é=ü,a=\u{1f600} f=1i 5", &[("a", "\u{1f600}"), ("é", "ü")]),
        ("m,a=\"quoted f=1i 5", &[("a", "\"quoted")]),
        ("m,a=b   f=1i   5  ", &[("a", "b")]),
        ("\t m,a=b f=1i 5\r\n", &[("a", "b")]),
    ] {
        if line.contains(r"\\,b") {
            check_refused(line, 0, &[(1, "the value of tag 'a' has an unescaped '='")]);
        } else {
            check_point(line, tags, &one, 5);
        }
    }
    for (line, name) in [
        (r"a\,\ \=b,t=1 f=1", "a, =b"),
        ("a=b f=1", "a=b"),
        (r"a\b\ c f=1", r"a\b c"),
        ("\"q\" f=1", "\"q\""),
        ("日本 f=1", "日本"),
    ] {
        assert_eq!(points(&parse(line))[0].measurement, name);
    }
}

#[test]
fn values() {
    for (value, expected) in [
        ("1", f64(1.0)),
        ("1.", f64(1.0)),
        (".5", f64(0.5)),
        ("-1e-3", f64(-0.001)),
        ("+1.5E+3", f64(1500.0)),
        ("-0", f64(-0.0)),
        ("0.1", f64(0.1)),
        ("123456789012345678901234567890", f64(123456789012345678901234567890.0)),
        ("0.30000000000000004", f64(0.30000000000000004)),
        ("1.7976931348623157e308", f64(f64::MAX)),
        ("5e-324", f64(5e-324)),
        ("1e-400", f64(0.0)),
        ("58i", Scalar::I64(58)),
        ("-58i", Scalar::I64(-58)),
        ("+58i", Scalar::I64(58)),
        ("-0i", Scalar::I64(0)),
        ("0000000000000000000000000007i", Scalar::I64(7)),
        ("12345678i", Scalar::I64(12345678)),
        ("9223372036854775807i", Scalar::I64(i64::MAX)),
        ("-9223372036854775808i", Scalar::I64(i64::MIN)),
        ("0u", Scalar::U64(0)),
        ("18446744073709551615u", Scalar::U64(u64::MAX)),
        ("\"\"", text("")),
        ("\"a, b=c\"", text("a, b=c")),
        (r#""say \"hi\" \\ \n \,""#, text(r#"say "hi" \ \n \,"#)),
        ("\"two\nlines\r\n\"", text("two\nlines\r\n")),
        ("\"é#\"", text("é#")),
    ] {
        for first in [format!("m f={value} 5"), format!("m f={value}"), format!("m f={value}\r\n")] {
            let time = if first.ends_with(" 5") { 5 } else { DEFAULT_TIME };
            check_point(&first, &[], &[("f", expected.clone())], time);
        }
        // The second line goes the predicted way.
        let parsed = parse(&format!("m f={value} 5\nm f={value} 6\nm f={value},g=1i"));
        assert!(points(&parsed).iter().all(|point| point.fields["f"] == expected), "{value}");
        assert_eq!(parsed.rows, 3);
    }
    for (words, expected) in [("t T true True TRUE", true), ("f F false False FALSE", false)] {
        for word in words.split(' ') {
            check_point(&format!("m f={word} 5"), &[], &[("f", Scalar::Bool(expected))], 5);
        }
    }
}

#[test]
fn fields_and_times() {
    let one = Scalar::I64(1);
    check_point(r"m a\,\=\ b=1i,\c=1i 5", &[], &[("a,= b", one.clone()), (r"\c", one.clone())], 5);
    check_point("m \"a\"=1i,b=\"x\" 5", &[], &[("\"a\"", one.clone()), ("b", text("x"))], 5);
    for (time, expected) in [
        ("0", 0),
        ("-1", -1),
        ("1700000000000000000", 1_700_000_000_000_000_000),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("00000000000000000000005", 5),
    ] {
        check_point(&format!("m f=1i {time}"), &[], &[("f", one.clone())], expected);
        check_point(&format!("m f=1i {time} \r\n\n"), &[], &[("f", one.clone())], expected);
    }
    let mut options = Options::new(DEFAULT_TIME, 1);
    options.precision = Precision::Second;
    let parsed = parse_with(&Known::default(), options, &[b"m f=1 -3\nm f=1 9223372037\nm f=1"]);
    assert_eq!(parsed.tables[0].rows.times, [-3_000_000_000, DEFAULT_TIME]);
    assert_eq!(parsed.rejected[0].reason, "time 9223372037 does not fit 64 bits in nanoseconds");
}

#[test]
fn malformed_lines() {
    for (line, reason) in [
        ("m", "the line has no fields"),
        ("m,a=b", "the line has no fields"),
        ("m ", "the line has no fields"),
        ("m  \r", "the line has no fields"),
        (",a=b f=1", "the measurement is missing"),
        ("m, f=1", "tag '' has no value"),
        ("m,a f=1", "tag 'a' has no value"),
        ("m,a,b=1 f=1", "tag 'a' has no value"),
        ("m,=b f=1", "a tag has no name"),
        ("m,a= f=1", "tag 'a' has an empty value"),
        ("m,a=,b=1 f=1", "tag 'a' has an empty value"),
        ("m,a=b=c f=1", "the value of tag 'a' has an unescaped '='"),
        ("m,a=1,a=2 f=1", "tag 'a' stands twice in the line"),
        ("m,b=1,a=1,b=2 f=1", "tag 'b' stands twice in the line"),
        ("m f", "field 'f' has no value"),
        ("m f 5", "field 'f' has no value"),
        ("m f=", "a field has no value"),
        ("m f=,g=1", "a field has no value"),
        ("m =1", "a field has no name"),
        ("m f=1,", "a field has no name"),
        ("m f=1,,g=1", "a field has no name"),
        ("m f=1, g=1", "a field has no name"),
        ("m f=1,f=2", "field 'f' stands twice in the line"),
        ("m,a=1 a=2", "'a' is a tag of this table, not a field"),
        ("m f=1 x", "'x' is not a time"),
        ("m f=1 5x", "'x' stands behind the end of the line's last part"),
        ("m f=1 5.0", "'.0' stands behind the end of the line's last part"),
        ("m f=1 5 6", "'6' stands behind the end of the line's last part"),
        ("m f=1 -", "'-' is not a time"),
        ("m f=1 9223372036854775808", "time '9223372036854775808' does not fit 64 bits"),
        ("m time=1", "column name 'time' is reserved ('time' and names that start with 'weir_')"),
        ("m,time=1 f=1", "column name 'time' is reserved ('time' and names that start with 'weir_')"),
        ("m weir_x=1", "column name 'weir_x' is reserved ('time' and names that start with 'weir_')"),
        ("m f=9223372036854775808i", "'9223372036854775808i' is not an integer of 64 bits"),
        ("m f=1.5i", "'1.5i' is not an integer of 64 bits"),
        ("m f=i", "'i' is not an integer of 64 bits"),
        ("m f=-1u", "'-1u' is not an unsigned integer of 64 bits"),
        ("m f=18446744073709551616u", "'18446744073709551616u' is not an unsigned integer of 64 bits"),
        ("m f=\"a\"b", "a quoted text is not followed by a comma, a space or the end of the line"),
        ("m f=\"a", "a quoted text is not closed before the end of the body"),
    ] {
        check_refused(line, 0, &[(1, reason)]);
        // Between good lines, and after one that set up every prediction.
        if !reason.contains("not closed") {
            check_refused(&format!("g f=1\n{line}\ng f=2\n"), 2, &[(2, reason)]);
        }
    }
    for value in ["nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "1e", "e5", ".", "-", "+", "+-1", "--1"] {
        let what = "a finite number, an integer with 'i' or 'u', a boolean or a quoted text";
        check_refused(&format!("m f={value} 5"), 0, &[(1, &format!("value '{value}' is not {what}"))]);
        check_refused(&format!("m f=1 5\nm f={value} 5"), 1, &[(2, &format!("value '{value}' is not {what}"))]);
    }
    for value in ["tr", "TrUe", "yes", "1f", "0x10", "1_000", "\\1", "1\r2", "'a'", "1i2"] {
        assert_eq!(parse(&format!("m f={value} 5\nm f=1,g={value}")).rejected_count, 2, "{value}");
    }
}

#[test]
fn blank_lines_and_comments_are_skipped_but_counted() {
    check_refused(
        "\n# a comment, with=\"quotes\n  \t\r\n\r\nm f=1\n  # m f=2\nbad\n",
        1,
        &[(7, "the line has no fields")],
    );
    check_refused("m f=\"a\n\nb\\\nc\"\nbad\n", 1, &[(5, "the line has no fields")]);
    assert_eq!(parse("# only\n\n").tables, []);
    assert_eq!(parse("").rows, 0);
}

#[test]
fn a_refused_line_is_skipped_whole() {
    // The quoted text of a refused line must not become lines.
    check_refused(
        "m f=1i\nm f=\"x\nm f=666i\n\"\nm f=2i\n",
        2,
        &[(2, "field 'f' is an integer field, the line has a string field")],
    );
    check_refused(
        "m a=b,f=\"x\nm f=666i\ny\"\nm f=2i\n",
        1,
        &[(1, "value 'b' is not a finite number, an integer with 'i' or 'u', a boolean or a quoted text")],
    );
}

#[test]
fn text_that_is_not_utf8_is_refused_by_number() {
    let cases: [&[u8]; 6] =
        [b"m\xff f=1", b"m,a=\xff f=1", b"m,\xffa=1 f=1", b"m \xff=1", b"m f=\"\xff\"", b"m,b=1 f=1i,\xe9=2"];
    for bad in cases {
        let body = [b"m f=1\n\n", bad, b"\nm f=2\nm f=\"\xc3\xa9\"\n"].concat();
        let parsed = parse_with(&Known::default(), Options::new(0, 1), &[&body]);
        assert_eq!(parsed.rejected_count, 2, "{bad:?}");
        assert_eq!((parsed.rejected[0].line_number, &*parsed.rejected[0].reason), (3, "the line is not UTF-8"));
        assert_eq!(parsed.rejected[1].line_number, 5);
        assert_eq!(points(&parsed).len(), 2);
    }
}

#[test]
fn types_are_those_of_the_schema_or_of_the_first_accepted_line() {
    let known = Known::default().with("m", &[("t", Role::Tag), ("i", Role::Field(FieldType::I64))]);
    let body = "m i=1 1\nm i=1i,new=\"x\" 2\nm new=1 3\nm t=1 4\nm,i=x f=1 5\nm,t=1 other=1i,i=\"x\" 6\nm other=1u 7\nm,new=1 x=1 8\n";
    let parsed = parse_with(&known, Options::new(0, 1), &[body.as_bytes()]);
    let reasons: Vec<_> = parsed.rejected.iter().map(|line| (line.line_number, line.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [
            (1, "field 'i' is an integer field, the line has a float field"),
            (3, "field 'new' is a string field, the line has a float field"),
            (4, "'t' is a tag of this table, not a field"),
            (5, "'i' is an integer field of this table, not a tag"),
            (6, "field 'i' is an integer field, the line has a string field"),
            (8, "'new' is a string field of this table, not a tag"),
        ]
    );
    // Line 6 left no trace: 'other' got its type from line 7.
    let fields = [("new".to_owned(), Role::Field(FieldType::Str)), ("other".to_owned(), Role::Field(FieldType::U64))];
    assert_eq!(parsed.tables[0].new_columns, fields);
    assert_eq!(parsed.tables[0].rows.keys.len(), 1);
    assert_eq!(points(&parsed).len(), 2);
    assert_eq!(parsed.rejected[0].original_line, "m i=1 1");
}

#[test]
fn a_refused_line_leaves_no_trace() {
    for bad in [
        "n,a=1 f=1 x",
        "m,newtag=1 v=1i x",
        "m,b=1,a=1 v=1i,new=2,v=3i",
        "m v=1i,s=\"text\",x=1,b=f,v=1i",
        "m x=1,v=\"s\"",
        "m,h=9 s=\"long text\" 99999999999999999999",
    ] {
        let good = "m,h=1 v=1i,s=\"a\",b=t 1\nm,h=2 v=2i 2\n";
        let more = "m,h=1 v=3i,s=\"b\",b=f,x=9u 3\nm,newtag=2 v=4i,new=\"other\" 4\n";
        let mut clean = parse(&format!("{good}{more}"));
        let dirty = parse(&format!("{good}{bad}\n{bad}\n{more}"));
        assert_eq!(dirty.rejected_count, 2, "{bad}");
        (clean.rejected, clean.rejected_count) = (dirty.rejected.clone(), 2);
        assert_eq!(dirty, clean, "{bad}");
    }
}

#[test]
fn equal_tag_sets_are_one_series_however_they_are_spelled() {
    let parsed = parse("m,a=1,b=2 f=1\nm,b=2,a=1 f=2\nm,a=1,b=2 f=3\nm,b=2,a=1 f=4\nm\\=,a=1 f=5\nm=,a=1 f=6\n");
    assert_eq!(parsed.tables.len(), 2);
    assert_eq!(parsed.tables[0].rows.keys.iter().collect::<Vec<_>>(), [b"a=1,b=2"]);
    assert_eq!(parsed.tables[0].rows.series, [0, 0, 0, 0]);
    assert_eq!(parsed.tables[1].rows.series, [0, 0]);
    assert_eq!(parsed.tables[0].new_columns[0], ("a".to_owned(), Role::Tag));
}

#[test]
fn the_same_key_twice_stays_two_rows_in_order() {
    let parsed = parse("m,a=1 f=1i,g=1i 5\nm,a=1 f=2i 5\n");
    let rows = &parsed.tables[0].rows;
    assert_eq!((rows.times.as_slice(), rows.series.as_slice()), (&[5, 5][..], &[0, 0][..]));
    assert_eq!(rows.fields[0].values, Values::I64(vec![1, 2]));
    assert!(rows.fields[1].has(0) && !rows.fields[1].has(1));
}

#[test]
fn rows_with_different_fields_keep_what_they_have() {
    let mut body = String::new();
    for row in 0..50 {
        let fields: Vec<_> = (0..7).filter(|field| (row * 7 + field * 3) % 5 < 2).collect();
        let fields: Vec<_> =
            fields.iter().map(|field| format!("f{field}={row}i,s{field}=\"{row}\",b{field}=t")).collect();
        body.push_str(&format!("m,h={} {} {row}\n", row % 3, fields.join(",")));
    }
    let parsed = parse(&body);
    assert_eq!(parsed.rejected, []);
    for (row, point) in points(&parsed).iter().enumerate() {
        let expected: Vec<_> = (0..7).filter(|field| (row * 7 + field * 3) % 5 < 2).collect();
        assert_eq!(point.fields.len(), expected.len() * 3);
        for field in expected {
            assert_eq!(point.fields[&format!("f{field}")], Scalar::I64(row as i64));
            assert_eq!(point.fields[&format!("s{field}")], text(&row.to_string()));
            assert_eq!(point.fields[&format!("b{field}")], Scalar::Bool(true));
        }
    }
}
