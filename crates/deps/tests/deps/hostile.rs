//! Every parser on damaged input: it may refuse, it may not panic, loop or grow without bound.

use weir_deps::lock::parse;
use weir_deps::marker::Target;

/// xorshift64*, so that a failure repeats.
struct Noise(u64);

impl Noise {
    fn next(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % bound.max(1)
    }
}

/// Found by this test: the requirement parser underneath panics on a name that ends with a separator.
#[test]
fn names_that_end_with_a_separator_are_problems() {
    for text in [
        "idna- ==3.10\n",
        "idna.\n",
        "idna_>=2\n",
        "a[x-]==1\n",
        "a[-]==1\n",
        "-\u{e9}\n",
        "[x]\n",
        "6r[r \u{fffd}r\n",
        "p[Y.--\u{c}##--p\n",
        "a[b \u{e9}]c==1\n",
    ] {
        let set = parse(weir_deps::lock::LockKind::Requirements, text, "file", &Target::default());
        assert!(set.packages.is_empty(), "{text}");
    }
}

const PIECES: &[&[u8]] = &[
    b"[[",
    b"]]",
    b"{",
    b"}",
    b"\"",
    b"\\",
    b"\n",
    b"\0",
    b"=",
    b"(",
    b")",
    b"AND",
    b"..",
    b"\xff",
    b"\xe2\x80\xa8",
    b"-r ",
    b"'''",
    b"9999999999999999999",
];

fn damaged(sample: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=noise.next(4) {
        let at = noise.next(bytes.len() + 1);
        match noise.next(4) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << noise.next(8),
            2 => {
                let to = (at + noise.next(20)).min(bytes.len());
                bytes.drain(at..to);
            }
            _ => {
                let piece = PIECES[noise.next(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

fn each(samples: &[&[u8]], check: impl Fn(&[u8])) {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for sample in samples {
        for _ in 0..400 {
            check(&damaged(sample, &mut noise));
        }
    }
}

#[test]
fn lock_files_may_be_damaged_anyhow() {
    let target = Target::new("3.12", "linux", "x86_64", &[]).unwrap();
    for (kind, sample) in crate::locks::SAMPLES {
        each(&[sample.as_bytes()], |bytes| {
            let set = parse(*kind, &String::from_utf8_lossy(bytes), "file", &target);
            assert!(set.packages.iter().all(|one| !one.name.contains("..") && !one.name.starts_with('/')));
        });
    }
}

#[test]
fn metadata_expressions_policies_and_pages_may_be_damaged_anyhow() {
    each(&[b"Metadata-Version: 2.1\nName: a\nVersion: 1\nLicense: x\n  y\nClassifier: License :: OSI Approved :: MIT License\n\nbody"], |bytes| {
        let (metadata, _) = weir_deps::metadata::parse(bytes);
        let _ = weir_deps::licence::resolve(&metadata, &[]);
    });
    each(&[b"MPL-2.0 AND (Apache-2.0 OR MIT) WITH LLVM-exception"], |bytes| {
        if let Ok(parsed) = weir_deps::licence::expression::parse(&String::from_utf8_lossy(bytes)) {
            let again = weir_deps::licence::expression::parse(&parsed.expression.to_string()).unwrap();
            assert_eq!(again.expression, parsed.expression);
        }
    });
    each(&[weir_deps::policy::DEFAULT_TOML.as_bytes()], |bytes| {
        let _ = weir_deps::policy::Policy::parse(&String::from_utf8_lossy(bytes));
    });
    let page =
        b"<a href=\"../x-1.0-py3-none-any.whl#sha256=00\" data-core-metadata=\"true\">x-1.0-py3-none-any.whl</a>";
    let json = br#"{"files": [{"filename": "x-1.0-py3-none-any.whl", "url": "../x", "hashes": {}, "core-metadata": {"sha256": "00"}}]}"#;
    each(&[page, json], |bytes| {
        for kind in ["text/html", "application/json"] {
            if let Ok(files) = weir_deps::index::files::parse(bytes, kind, "https://i.test/simple/x/") {
                assert!(files.iter().all(|file| file.url.starts_with("http")));
                let _ = weir_deps::index::files::newest(&files, "x", "1.0");
            }
        }
    });
    each(&[br#"{"id": "X", "affected": [{"package": {"ecosystem": "PyPI", "name": "x"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]}"#], |bytes| {
        if let Ok(found) = weir_deps::advisory::record::parse(bytes) {
            assert!(found.iter().all(|(_, record)| record.affects("0.1") || !record.affects("nonsense")));
        }
    });
}

#[test]
fn archives_may_be_damaged_anyhow() {
    let zip = crate::index::zip(&[("a-1.dist-info/METADATA", b"Name: a\n"), ("b", b"x")]);
    each(&[&zip], |bytes| {
        if let Ok(entries) = weir_deps::archive::entries(&bytes) {
            for entry in entries {
                assert!(!entry.name.contains(".."));
                let _ = weir_deps::archive::read(&bytes, &entry, 1000);
            }
        }
    });
}
