//! Licence texts: which licences a file states, and how sure that is.
//!
//! Two steps. Characteristic phrases, looked for in the text with case, punctuation and line breaks removed, name the
//! candidates; they also separate siblings that differ by one clause (BSD-2 and BSD-3, ISC and 0BSD, MIT and MIT-0).
//! Then the share of the official text's word trigrams that the file has gives the confidence. A file may state several
//! licences. A short notice that points to a licence ("licensed under the Apache License, Version 2.0") counts too.
//!
//! Only the candidates' official texts are taken apart, and each only once, so that reading a text costs little more than
//! reading its file; comparing with all 700 official texts, as detection in the crate `spdx` does, would not fit a check's time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, OnceLock};

use aho_corasick::AhoCorasick;
use serde::{Deserialize, Serialize};

/// Largest part of a licence file that is read, bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Part of every cache key: raised when a rule changes, so that old answers are not used.
pub const RULES_VERSION: u32 = 1;
/// A full text counts from this share of the official text's trigrams.
const CONTAINED_MIN: f32 = 0.80;

/// What one text states. Serialised into the cache under the content hash.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TextLicenses {
    /// Licences with their confidence in 0..=1, in the order of the rules.
    pub found: Vec<(String, f32)>,
    /// Licences of bundled parts that the text lists by itself (`License: GPL-3.0-or-later WITH GCC-exception-3.1`).
    pub bundled: Vec<String>,
}

struct Rule {
    id: &'static str,
    /// All of these must occur.
    all: &'static [&'static str],
    /// None of these may occur.
    none: &'static [&'static str],
    /// A pointer to the licence, not its text: nothing to compare with.
    notice: bool,
}

const fn text(id: &'static str, all: &'static [&'static str], none: &'static [&'static str]) -> Rule {
    Rule { id, all, none, notice: false }
}

const fn notice(id: &'static str, all: &'static [&'static str], none: &'static [&'static str]) -> Rule {
    Rule { id, all, none, notice: true }
}

const BSD_SOURCE: &str = "redistributions of source code must retain the above copyright";
const BSD_BINARY: &str = "redistributions in binary form must reproduce the above copyright";
const ENDORSE: &str = "used to endorse or promote products derived from this software without";
const ADVERTISING: &str = "all advertising materials mentioning features or use of this software must display";
const MIT_GRANT: &str = "permission is hereby granted free of charge to any person obtaining a copy of this software and associated documentation files";
const MIT_NOTICE: &str = "permission notice shall be included in all copies or substantial portions";
const ISC_GRANT_A: &str = "permission to use copy modify and or distribute this software for any purpose with or without fee is hereby granted";
const ISC_GRANT_B: &str =
    "permission to use copy modify and distribute this software for any purpose with or without fee is hereby granted";
const ISC_NOTICE: &str = "provided that the above copyright notice and this permission notice appear in all copies";

/// The full texts, which quote the notice that they tell people to use.
const GNU_TEXTS: &[&str] =
    &["version 3 29 june 2007", "version 2 june 1991", "version 2 1 february 1999", "19 november 2007"];

const RULES: &[Rule] = &[
    text("MIT", &[MIT_GRANT, MIT_NOTICE], &["shall be used for good not evil"]),
    text("MIT", &[MIT_GRANT, "permission notice including the next paragraph shall be included in all copies"], &[]),
    text("JSON", &[MIT_GRANT, "shall be used for good not evil"], &[]),
    text("MIT-0", &[MIT_GRANT], &[MIT_NOTICE, "permission notice including the next paragraph"]),
    text(
        "BSD-3-Clause",
        &[BSD_SOURCE, BSD_BINARY, ENDORSE],
        &[ADVERTISING, "must include the following acknowledgment"],
    ),
    text("BSD-4-Clause", &[BSD_SOURCE, BSD_BINARY, ADVERTISING], &[]),
    text(
        "BSD-2-Clause",
        &[BSD_SOURCE, BSD_BINARY],
        &[ENDORSE, ADVERTISING, "must include the following acknowledgment"],
    ),
    text("Apache-1.1", &[BSD_SOURCE, "must include the following acknowledgment", "apache software foundation"], &[]),
    text("ISC", &[ISC_GRANT_A, ISC_NOTICE], &[]),
    text("ISC", &[ISC_GRANT_B, ISC_NOTICE], &[]),
    text("0BSD", &[ISC_GRANT_A], &[ISC_NOTICE]),
    text(
        "Apache-2.0",
        &["apache license version 2 0", "terms and conditions for use reproduction and distribution"],
        &[],
    ),
    notice(
        "Apache-2.0",
        &["licensed under the apache license version 2 0"],
        &["terms and conditions for use reproduction and distribution"],
    ),
    text("MPL-2.0", &["mozilla public license version 2 0", "covered software means source code form"], &[]),
    notice(
        "MPL-2.0",
        &["subject to the terms of the mozilla public license v 2 0"],
        &["covered software means source"],
    ),
    text("MPL-1.1", &["mozilla public license version 1 1", "commercial use means distribution"], &[]),
    text("GPL-2.0-only", &["gnu general public license version 2 june 1991"], &[]),
    text("GPL-3.0-only", &["gnu general public license version 3 29 june 2007"], &[]),
    text("LGPL-2.0-only", &["gnu library general public license version 2 june 1991"], &[]),
    text("LGPL-2.1-only", &["gnu lesser general public license version 2 1 february 1999"], &[]),
    text("LGPL-3.0-only", &["gnu lesser general public license version 3 29 june 2007"], &[]),
    text("AGPL-3.0-only", &["gnu affero general public license version 3 19 november 2007"], &[]),
    text("SSPL-1.0", &["server side public license version 1"], &[]),
    text("PSF-2.0", &["python software foundation license version 2", "psf is making python available"], &[]),
    text("Unlicense", &["this is free and unencumbered software released into the public domain"], &[]),
    text(
        "Zlib",
        &[
            "in no event will the authors be held liable for any damages arising from the use of this software",
            "the origin of this software must not be misrepresented",
        ],
        &["libpng version"],
    ),
    text("BSL-1.0", &["boost software license version 1 0"], &[]),
    text("CC0-1.0", &["cc0 1 0 universal", "affirmer"], &[]),
    text("CC-BY-4.0", &["creative commons attribution 4 0 international public license"], &[]),
    text("CC-BY-SA-4.0", &["creative commons attribution sharealike 4 0 international public license"], &[]),
    text("EPL-2.0", &["eclipse public license v 2 0", "contributor means any person or entity that distributes"], &[]),
    text("EPL-1.0", &["eclipse public license v 1 0", "contributor means any person or entity that distributes"], &[]),
    text("EUPL-1.2", &["european union public licence v 1 2"], &[]),
    text("WTFPL", &["do what the fuck you want to public license"], &[]),
    text("ZPL-2.1", &["zope public license zpl version 2 1"], &[]),
    text("OFL-1.1", &["sil open font license version 1 1"], &[]),
    text("Artistic-2.0", &["the artistic license 2 0"], &[]),
    text("BUSL-1.1", &["business source license 1 1"], &[]),
    text("Elastic-2.0", &["elastic license 2 0"], &[]),
    text(
        "MIT-CMU",
        &[
            "by obtaining using and or copying this software and or its associated documentation you agree",
            "permission to use copy modify and distribute this software and its",
        ],
        &[],
    ),
    text(
        "HPND",
        &[
            "permission to use copy modify and distribute this software and its documentation for any purpose and without fee",
        ],
        &[],
    ),
    text("UPL-1.0", &["the universal permissive license upl version 1 0"], &[]),
    text("Unicode-3.0", &["unicode license v3"], &[]),
    notice(
        "GPL-3.0-or-later",
        &[
            "gnu general public license as published by the free software foundation either version 3 of the license or at your option any later",
        ],
        GNU_TEXTS,
    ),
    notice(
        "GPL-2.0-or-later",
        &[
            "gnu general public license as published by the free software foundation either version 2 of the license or at your option any later",
        ],
        GNU_TEXTS,
    ),
    notice(
        "LGPL-3.0-or-later",
        &[
            "gnu lesser general public license as published by the free software foundation either version 3 of the license or at your option any later",
        ],
        GNU_TEXTS,
    ),
    notice(
        "LGPL-2.1-or-later",
        &[
            "gnu lesser general public license as published by the free software foundation either version 2 1 of the license or at your option any later",
        ],
        GNU_TEXTS,
    ),
    notice("LicenseRef-Commons-Clause", &["commons clause license condition"], &[]),
];

/// Whether a file's lower-case name is one that licences are kept under.
pub fn is_license_file(name: &str) -> bool {
    ["licen", "copying", "notice", "unlicense", "copyright"].iter().any(|start| name.starts_with(start))
}

/// Reads a text. Deterministic, no state but the trigrams of official texts, made when first needed.
pub fn detect(raw: &str) -> TextLicenses {
    let raw = cut(raw, TEXT_BYTES_MAX);
    let words = normalize(raw);
    let phrases = Phrases::get();
    let occurs = phrases.in_words(&words);
    let mut found: Vec<(String, f32)> = Vec::new();
    let mut trigrams = None;
    for (rule, (all, none)) in RULES.iter().zip(&phrases.of_rules) {
        if !all.iter().all(|phrase| occurs[*phrase])
            || none.iter().any(|phrase| occurs[*phrase])
            || found.iter().any(|(id, _)| id == rule.id)
        {
            continue;
        }
        if rule.notice {
            found.push((rule.id.to_owned(), 0.95));
            continue;
        }
        let trigrams = trigrams.get_or_insert_with(|| trigrams_of(&words));
        let share = contained(rule.id, trigrams);
        if share >= CONTAINED_MIN {
            found.push((rule.id.to_owned(), share));
        }
    }
    drop_implied(&mut found);
    TextLicenses { found, bundled: bundled(raw) }
}

/// Texts that contain another licence's text as part of their own.
fn drop_implied(found: &mut Vec<(String, f32)>) {
    let has = |id: &str, found: &[(String, f32)]| found.iter().any(|(have, _)| have == id);
    // The LGPL 3 is a supplement to the GPL 3 and is shipped together with it.
    if has("LGPL-3.0-only", found) {
        found.retain(|(id, _)| id != "GPL-3.0-only");
    }
    // Python's own file ends with the zero-clause licence of the examples in its documentation.
    if has("PSF-2.0", found) {
        found.retain(|(id, _)| id != "0BSD");
    }
}

fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Lower-case ASCII words separated by single spaces; all else is a separator. Starts and ends with a space.
pub fn normalize(text: &str) -> String {
    /// The byte that stands for each byte: itself in lower case, or a space.
    const FOLDED: [u8; 256] = {
        let mut folded = [b' '; 256];
        let mut byte = 0;
        while byte < 128 {
            if (byte as u8).is_ascii_alphanumeric() {
                folded[byte] = (byte as u8).to_ascii_lowercase();
            }
            byte += 1;
        }
        folded
    };
    let mut words = Vec::with_capacity(text.len() + 2);
    words.push(b' ');
    let mut last = b' ';
    for byte in text.bytes() {
        let folded = FOLDED[usize::from(byte)];
        if folded != b' ' || last != b' ' {
            words.push(folded);
        }
        last = folded;
    }
    if last != b' ' {
        words.push(b' ');
    }
    String::from_utf8(words).expect("only ASCII was pushed")
}

/// All phrases of all rules in one automaton, so that a text is gone through once.
struct Phrases {
    automaton: AhoCorasick,
    count: usize,
    /// For each rule, the numbers of the phrases that must and that may not occur.
    of_rules: Vec<(Vec<usize>, Vec<usize>)>,
}

impl Phrases {
    fn get() -> &'static Self {
        static PHRASES: OnceLock<Phrases> = OnceLock::new();
        PHRASES.get_or_init(|| {
            let mut all: Vec<&str> = Vec::new();
            let mut number = |phrase: &&'static str| {
                all.iter().position(|have| have == phrase).unwrap_or_else(|| {
                    all.push(phrase);
                    all.len() - 1
                })
            };
            let mut numbers = |phrases: &[&'static str]| phrases.iter().map(&mut number).collect();
            let of_rules = RULES.iter().map(|rule| (numbers(rule.all), numbers(rule.none))).collect();
            let automaton = AhoCorasick::new(&all).expect("the phrases are few and short");
            Self { automaton, count: all.len(), of_rules }
        })
    }

    /// Which phrases occur.
    fn in_words(&self, words: &str) -> Vec<bool> {
        let mut occurs = vec![false; self.count];
        self.automaton.find_overlapping_iter(words).for_each(|found| occurs[found.pattern().as_usize()] = true);
        occurs
    }
}

/// Trigrams are hashes already: hashing them again would take longer than all else.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only numbers are hashed");
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type Trigrams = HashSet<u64, BuildHasherDefault<AsItIs>>;

fn trigrams_of(words: &str) -> Trigrams {
    let mut set = Trigrams::with_capacity_and_hasher(words.len() / 6, BuildHasherDefault::default());
    let (mut first, mut second) = (0u64, 0u64);
    for word in words.split_ascii_whitespace() {
        let hash = word
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        if second != 0 {
            let mixed = first.rotate_left(21) ^ second.rotate_left(42) ^ hash;
            // A table takes its slot from the low bits and its tag from the high ones: both must vary.
            set.insert(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        (first, second) = (second, hash);
    }
    set
}

/// The share of the official text that the file has.
fn contained(id: &str, file: &Trigrams) -> f32 {
    type Texts = Mutex<HashMap<String, std::sync::Arc<Trigrams>>>;
    static TEXTS: OnceLock<Texts> = OnceLock::new();
    let texts = TEXTS.get_or_init(Default::default);
    let known = texts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).cloned();
    let official = known.unwrap_or_else(|| {
        let made =
            std::sync::Arc::new(spdx::license_id(id).map_or_else(Trigrams::default, |id| official_trigrams(id.text())));
        texts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id.to_owned(), made.clone());
        made
    });
    if official.is_empty() {
        return 0.0;
    }
    let shared = official.iter().filter(|trigram| file.contains(trigram)).count();
    shared as f32 / official.len() as f32
}

/// Without copyright lines and the appendix on how to apply the licence, which people leave out.
fn official_trigrams(text: &str) -> Trigrams {
    let end = ["END OF TERMS AND CONDITIONS", "How to Apply These Terms", "APPENDIX: How to apply"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .unwrap_or(text.len());
    let kept: String = text[..end]
        .lines()
        .filter(|line| {
            let line = line.trim_start().to_ascii_lowercase();
            !line.starts_with("copyright ") && !line.starts_with("all rights reserved")
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    trigrams_of(&normalize(&kept))
}

/// The licences that a file lists for bundled parts, in the form wheel builders use: a line `License: EXPRESSION`.
fn bundled(raw: &str) -> Vec<String> {
    let mut listed: Vec<String> = Vec::new();
    for line in raw.lines() {
        let Some(value) = line.trim_start().strip_prefix("License:") else { continue };
        if let Ok(parsed) = super::expression::parse(value.trim()) {
            let spelled = parsed.expression.to_string();
            if listed.len() < 64 && !listed.contains(&spelled) {
                listed.push(spelled);
            }
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every rule with a text finds the official text of its licence, and no sibling beside it.
    #[test]
    fn official_texts_are_found_as_themselves() {
        for rule in RULES.iter().filter(|rule| !rule.notice) {
            let official = spdx::license_id(rule.id).unwrap().text();
            let found = detect(official).found;
            let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
            assert!(ids.contains(&rule.id), "{}: {found:?}", rule.id);
            // The official text of the PSF licence bundles none, that of the Unicode licence is its own.
            assert_eq!(ids.len(), 1, "{}: {found:?}", rule.id);
        }
    }

    #[test]
    fn words_within_words_are_not_licences() {
        for text in ["use is permitted", "see the GPL-compatible notes", "LGPL", "MIT campus", ""] {
            assert!(detect(text).found.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_text_with_another_grant_is_not_the_licence() {
        let changed =
            format!("{MIT_GRANT}. {MIT_NOTICE} and nobody may sell it or use it at work, ever, for whatever reason.");
        assert!(detect(&changed).found.is_empty());
    }

    #[test]
    fn bundled_parts_are_listed() {
        let text = "Name: GCC runtime library\nFiles: x\nLicense: GPL-3.0-or-later WITH GCC-exception-3.1\nLicense: nonsense here\n";
        assert_eq!(detect(text).bundled, ["GPL-3.0-or-later WITH GCC-exception-3.1"]);
    }
}
