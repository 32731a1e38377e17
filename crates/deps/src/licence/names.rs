//! Names people give to licences: the curated alias table, the classifiers, and fuzzy matching of what is left.
//!
//! Aliases are exact after normalisation, never substrings: "permitted" is not MIT, and LGPL is not GPL.

use super::expression::Expression;

/// What a name means.
#[derive(Debug, Clone, PartialEq)]
pub enum Named {
    /// One expression.
    Exact(&'static str),
    /// A family: the first is the usual reading, all are possible.
    Ambiguous(&'static [&'static str]),
}

use Named::{Ambiguous, Exact};

/// BSD without a clause count.
pub const BSD: &[&str] = &["BSD-3-Clause", "BSD-2-Clause", "BSD-4-Clause", "0BSD"];
const APACHE: &[&str] = &["Apache-2.0", "Apache-1.1", "Apache-1.0"];
const GPL: &[&str] = &["GPL-1.0-or-later", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"];
const GPL2: &[&str] = &["GPL-2.0-only", "GPL-2.0-or-later"];
const GPL3: &[&str] = &["GPL-3.0-only", "GPL-3.0-or-later"];
const LGPL: &[&str] =
    &["LGPL-2.0-or-later", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "LGPL-2.0-only"];
const LGPL2: &[&str] = &["LGPL-2.0-only", "LGPL-2.1-only", "LGPL-2.0-or-later", "LGPL-2.1-or-later"];
const LGPL21: &[&str] = &["LGPL-2.1-only", "LGPL-2.1-or-later"];
const LGPL3: &[&str] = &["LGPL-3.0-only", "LGPL-3.0-or-later"];
const AGPL: &[&str] = &["AGPL-3.0-only", "AGPL-3.0-or-later"];
const MPL: &[&str] = &["MPL-2.0", "MPL-1.1", "MPL-1.0"];
const ZPL: &[&str] = &["ZPL-2.1", "ZPL-2.0", "ZPL-1.1"];
const ARTISTIC: &[&str] = &["Artistic-1.0-Perl", "Artistic-1.0", "Artistic-2.0"];
const EPL: &[&str] = &["EPL-1.0", "EPL-2.0"];
const EUPL: &[&str] = &["EUPL-1.2", "EUPL-1.1", "EUPL-1.0"];
const CC_BY: &[&str] = &["CC-BY-4.0", "CC-BY-3.0"];
const PYTHON: &[&str] = &["PSF-2.0", "Python-2.0"];

/// Keys are in the normal form of [`key`].
const ALIASES: &[(&str, Named)] = &[
    ("2 clause bsd", Exact("BSD-2-Clause")),
    ("3 clause bsd", Exact("BSD-3-Clause")),
    ("3 clause revised bsd", Exact("BSD-3-Clause")),
    ("academic free", Exact("AFL-3.0")),
    ("agpl", Ambiguous(AGPL)),
    ("agpl 3", Ambiguous(AGPL)),
    ("agplv3", Ambiguous(AGPL)),
    ("agplv3+", Exact("AGPL-3.0-or-later")),
    ("apache", Ambiguous(APACHE)),
    ("apache 2", Exact("Apache-2.0")),
    ("apache 2 0", Exact("Apache-2.0")),
    ("apache software", Ambiguous(APACHE)),
    ("apache software 2 0", Exact("Apache-2.0")),
    ("apachev2", Exact("Apache-2.0")),
    ("asl 2", Exact("Apache-2.0")),
    ("asl 2 0", Exact("Apache-2.0")),
    ("al2", Exact("Apache-2.0")),
    ("artistic", Ambiguous(ARTISTIC)),
    ("boost", Exact("BSL-1.0")),
    ("boost software", Exact("BSL-1.0")),
    ("boost software 1 0", Exact("BSL-1.0")),
    ("bsd", Ambiguous(BSD)),
    ("bsd 2 clause", Exact("BSD-2-Clause")),
    ("bsd 2 clause simplified", Exact("BSD-2-Clause")),
    ("bsd 3 clause", Exact("BSD-3-Clause")),
    ("bsd 3 clause new or revised", Exact("BSD-3-Clause")),
    ("bsd derived", Ambiguous(BSD)),
    ("bsd like", Ambiguous(BSD)),
    ("bsd style", Ambiguous(BSD)),
    ("bsd new", Exact("BSD-3-Clause")),
    ("bsd2", Exact("BSD-2-Clause")),
    ("bsd3", Exact("BSD-3-Clause")),
    ("cc by 4 0", Exact("CC-BY-4.0")),
    ("cc0", Exact("CC0-1.0")),
    ("cc0 1 0 universal", Exact("CC0-1.0")),
    ("eclipse public", Ambiguous(EPL)),
    ("eclipse public 2 0", Exact("EPL-2.0")),
    ("epl", Ambiguous(EPL)),
    ("expat", Exact("MIT")),
    ("expat mit", Exact("MIT")),
    ("mit expat", Exact("MIT")),
    ("freebsd", Exact("BSD-2-Clause")),
    ("gnu affero general public 3", Ambiguous(AGPL)),
    ("gnu agpl 3", Ambiguous(AGPL)),
    ("gnu agplv3", Ambiguous(AGPL)),
    ("gnu general public", Ambiguous(GPL)),
    ("gnu general public 2", Ambiguous(GPL2)),
    ("gnu general public 3", Ambiguous(GPL3)),
    ("gnu general public 3 or later", Exact("GPL-3.0-or-later")),
    ("gnu gpl", Ambiguous(GPL)),
    ("gnu gpl 2", Ambiguous(GPL2)),
    ("gnu gpl 3", Ambiguous(GPL3)),
    ("gnu gplv2", Ambiguous(GPL2)),
    ("gnu gplv3", Ambiguous(GPL3)),
    ("gnu lesser general public", Ambiguous(LGPL)),
    ("gnu lesser general public 3", Ambiguous(LGPL3)),
    ("gnu lgpl", Ambiguous(LGPL)),
    ("gpl", Ambiguous(GPL)),
    ("gpl 2", Ambiguous(GPL2)),
    ("gpl 2 0+", Exact("GPL-2.0-or-later")),
    ("gpl 2 or later", Exact("GPL-2.0-or-later")),
    ("gpl 3", Ambiguous(GPL3)),
    ("gpl 3 or later", Exact("GPL-3.0-or-later")),
    ("gpl2", Ambiguous(GPL2)),
    ("gpl3", Ambiguous(GPL3)),
    ("gplv2", Ambiguous(GPL2)),
    ("gplv2 or later", Exact("GPL-2.0-or-later")),
    (
        "gplv2 or later with a special exception which allows to use pyinstaller to build and distribute non free programs including commercial ones",
        Exact("GPL-2.0-or-later WITH Bootloader-exception"),
    ),
    ("gnu gplv2 with foss exception", Exact("GPL-2.0-only WITH Universal-FOSS-exception-1.0")),
    ("gplv2+", Exact("GPL-2.0-or-later")),
    ("gplv3", Ambiguous(GPL3)),
    ("gplv3 or later", Exact("GPL-3.0-or-later")),
    ("gplv3+", Exact("GPL-3.0-or-later")),
    ("historical permission notice and disclaimer", Exact("HPND")),
    ("isc", Exact("ISC")),
    ("iscl", Exact("ISC")),
    ("lgpl", Ambiguous(LGPL)),
    ("lgpl 2 1", Ambiguous(LGPL21)),
    ("lgpl 2 1 or later", Exact("LGPL-2.1-or-later")),
    ("lgpl 3", Ambiguous(LGPL3)),
    ("lgpl 3 or later", Exact("LGPL-3.0-or-later")),
    ("lgpl with exceptions", Ambiguous(LGPL)),
    ("lgplv2", Ambiguous(LGPL2)),
    ("lgplv2 1", Ambiguous(LGPL21)),
    ("lgplv2 1+", Exact("LGPL-2.1-or-later")),
    ("lgplv2+", Exact("LGPL-2.0-or-later")),
    ("lgplv3", Ambiguous(LGPL3)),
    ("lgplv3+", Exact("LGPL-3.0-or-later")),
    ("mit", Exact("MIT")),
    ("mit x11", Exact("MIT")),
    ("mit cmu", Exact("MIT-CMU")),
    ("modified bsd", Exact("BSD-3-Clause")),
    ("mozilla public", Ambiguous(MPL)),
    ("mozilla public 2", Exact("MPL-2.0")),
    ("mozilla public 2 0", Exact("MPL-2.0")),
    ("mozilla public 2 0 mpl 2 0", Exact("MPL-2.0")),
    ("mpl", Ambiguous(MPL)),
    ("mpl 2", Exact("MPL-2.0")),
    ("mpl 2 0", Exact("MPL-2.0")),
    ("mplv2", Exact("MPL-2.0")),
    ("mpl 1 1", Exact("MPL-1.1")),
    ("new bsd", Exact("BSD-3-Clause")),
    ("new bsd 3 clause", Exact("BSD-3-Clause")),
    ("psf", Ambiguous(PYTHON)),
    ("psf 2", Exact("PSF-2.0")),
    ("psf 2 0", Exact("PSF-2.0")),
    ("psfl", Exact("PSF-2.0")),
    ("python", Ambiguous(PYTHON)),
    ("python software foundation", Exact("PSF-2.0")),
    ("revised bsd", Exact("BSD-3-Clause")),
    ("simplified bsd", Exact("BSD-2-Clause")),
    ("unlicense", Exact("Unlicense")),
    ("upl", Exact("UPL-1.0")),
    ("w3c", Exact("W3C")),
    ("wtfpl", Exact("WTFPL")),
    ("x11", Exact("X11")),
    ("zlib", Exact("Zlib")),
    ("zlib libpng", Exact("zlib-acknowledgement")),
    ("zope public", Ambiguous(ZPL)),
    ("zpl", Ambiguous(ZPL)),
    ("zpl 2 1", Exact("ZPL-2.1")),
    ("public domain", Exact("LicenseRef-Public-Domain")),
    ("proprietary", Exact("LicenseRef-Proprietary")),
    ("commercial", Exact("LicenseRef-Proprietary")),
];

/// By the text in the last parentheses or the last part of the classifier, after `License ::`.
const CLASSIFIERS: &[(&str, Named)] = &[
    ("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", Exact("CC0-1.0")),
    ("CeCILL-B Free Software License Agreement (CECILL-B)", Exact("CECILL-B")),
    ("CeCILL-C Free Software License Agreement (CECILL-C)", Exact("CECILL-C")),
    ("OSI Approved :: Academic Free License (AFL)", Exact("AFL-3.0")),
    ("OSI Approved :: Apache Software License", Ambiguous(APACHE)),
    ("OSI Approved :: Artistic License", Ambiguous(ARTISTIC)),
    ("OSI Approved :: BSD License", Ambiguous(BSD)),
    ("OSI Approved :: Boost Software License 1.0 (BSL-1.0)", Exact("BSL-1.0")),
    ("OSI Approved :: CEA CNRS Inria Logiciel Libre License, version 2.1 (CeCILL-2.1)", Exact("CECILL-2.1")),
    ("OSI Approved :: Common Development and Distribution License 1.0 (CDDL-1.0)", Exact("CDDL-1.0")),
    ("OSI Approved :: Eclipse Public License 1.0 (EPL-1.0)", Exact("EPL-1.0")),
    ("OSI Approved :: Eclipse Public License 2.0 (EPL-2.0)", Exact("EPL-2.0")),
    ("OSI Approved :: European Union Public Licence 1.1 (EUPL 1.1)", Exact("EUPL-1.1")),
    ("OSI Approved :: European Union Public Licence 1.2 (EUPL 1.2)", Exact("EUPL-1.2")),
    ("OSI Approved :: European Union Public Licence", Ambiguous(EUPL)),
    ("OSI Approved :: GNU Affero General Public License v3", Exact("AGPL-3.0-only")),
    ("OSI Approved :: GNU Affero General Public License v3 or later (AGPLv3+)", Exact("AGPL-3.0-or-later")),
    ("OSI Approved :: GNU General Public License (GPL)", Ambiguous(GPL)),
    ("OSI Approved :: GNU General Public License v2 (GPLv2)", Exact("GPL-2.0-only")),
    ("OSI Approved :: GNU General Public License v2 or later (GPLv2+)", Exact("GPL-2.0-or-later")),
    ("OSI Approved :: GNU General Public License v3 (GPLv3)", Exact("GPL-3.0-only")),
    ("OSI Approved :: GNU General Public License v3 or later (GPLv3+)", Exact("GPL-3.0-or-later")),
    ("OSI Approved :: GNU Lesser General Public License v2 (LGPLv2)", Exact("LGPL-2.0-only")),
    ("OSI Approved :: GNU Lesser General Public License v2 or later (LGPLv2+)", Exact("LGPL-2.0-or-later")),
    ("OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", Exact("LGPL-3.0-only")),
    ("OSI Approved :: GNU Lesser General Public License v3 or later (LGPLv3+)", Exact("LGPL-3.0-or-later")),
    ("OSI Approved :: GNU Library or Lesser General Public License (LGPL)", Ambiguous(LGPL)),
    ("OSI Approved :: Historical Permission Notice and Disclaimer (HPND)", Exact("HPND")),
    ("OSI Approved :: ISC License (ISCL)", Exact("ISC")),
    ("OSI Approved :: MIT License", Exact("MIT")),
    ("OSI Approved :: MIT No Attribution License (MIT-0)", Exact("MIT-0")),
    ("OSI Approved :: Mozilla Public License 1.0 (MPL)", Exact("MPL-1.0")),
    ("OSI Approved :: Mozilla Public License 1.1 (MPL 1.1)", Exact("MPL-1.1")),
    ("OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)", Exact("MPL-2.0")),
    ("OSI Approved :: Mulan Permissive Software License v2 (MulanPSL-2.0)", Exact("MulanPSL-2.0")),
    ("OSI Approved :: PostgreSQL License", Exact("PostgreSQL")),
    ("OSI Approved :: Python License (CNRI Python License)", Exact("CNRI-Python")),
    ("OSI Approved :: Python Software Foundation License", Exact("PSF-2.0")),
    ("OSI Approved :: SIL Open Font License 1.1 (OFL-1.1)", Exact("OFL-1.1")),
    ("OSI Approved :: The Unlicense (Unlicense)", Exact("Unlicense")),
    ("OSI Approved :: Universal Permissive License (UPL)", Exact("UPL-1.0")),
    ("OSI Approved :: University of Illinois/NCSA Open Source License", Exact("NCSA")),
    ("OSI Approved :: W3C License", Exact("W3C")),
    ("OSI Approved :: Zero-Clause BSD (0BSD)", Exact("0BSD")),
    ("OSI Approved :: Zope Public License", Ambiguous(ZPL)),
    ("OSI Approved :: zlib/libpng License", Exact("Zlib")),
    ("Other/Proprietary License", Exact("LicenseRef-Proprietary")),
    ("Public Domain", Exact("LicenseRef-Public-Domain")),
    ("Free To Use But Restricted", Exact("LicenseRef-Proprietary")),
    ("Free for non-commercial use", Exact("LicenseRef-Non-Commercial")),
    ("Creative Commons Attribution License", Ambiguous(CC_BY)),
];

/// The normal form of a name: lower-case words, without "the", "license", "licence", "version", "v" before a digit.
pub fn key(name: &str) -> String {
    let mut key = String::with_capacity(name.len());
    for word in name.split(|c: char| !(c.is_ascii_alphanumeric() || c == '+')).filter(|word| !word.is_empty()) {
        let word = word.to_ascii_lowercase();
        let word = match word.as_str() {
            "the" | "license" | "licence" | "licenses" | "licensed" | "version" | "v" | "under" => continue,
            other => {
                other.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(other)
            }
        };
        if !key.is_empty() {
            key.push(' ');
        }
        key.push_str(word);
    }
    key
}

/// What the alias table says of a name.
pub fn alias(name: &str) -> Option<&'static Named> {
    if name.len() > 200 || name.contains('\n') {
        return None;
    }
    let key = key(name);
    ALIASES.iter().find(|(alias, _)| *alias == key).map(|(_, named)| named).or_else(|| super::newer::alias(&key))
}

/// What a classifier says; `None` for one that names no licence (such as the bare "OSI Approved").
pub fn classifier(value: &str) -> Option<&'static Named> {
    CLASSIFIERS.iter().find(|(known, _)| *known == value).map(|(_, named)| named)
}

/// The nearest alias or SPDX name by edit distance, with a confidence below 1; `None` below 0.75.
pub fn fuzzy(name: &str) -> Option<(Expression, f32)> {
    if name.len() > 80 || name.contains('\n') {
        return None;
    }
    let key = key(name);
    if key.len() < 5 {
        return None;
    }
    let aliases = ALIASES.iter().filter(|(alias, _)| alias.len() >= 5).map(|(alias, named)| {
        let id = match named {
            Exact(id) => *id,
            Ambiguous(ids) => ids[0],
        };
        (similarity(&key, alias), id)
    });
    let names = spdx::identifiers::LICENSES
        .iter()
        .filter(|one| one.flags & spdx::flags::IS_DEPRECATED == 0)
        .map(|one| (similarity(&key, &self::key(one.full_name)), one.name));
    let (confidence, id) = aliases.chain(names).max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Digits are versions: a name that differs in one is another licence.
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    if confidence < 0.75 || (confidence < 1.0 && digits(&key) != digits(id) && !digits(&key).is_empty()) {
        return None;
    }
    let expression = super::expression::parse(id).ok()?.expression;
    Some((expression, confidence.min(0.95)))
}

fn similarity(a: &str, b: &str) -> f32 {
    let longest = a.len().max(b.len());
    if longest == 0 || a.len().abs_diff(b.len()) * 4 > longest {
        return 0.0;
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let cost = corner + usize::from(left != right);
            corner = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(corner + 1);
        }
    }
    1.0 - row[b.len()] as f32 / longest as f32
}

#[cfg(test)]
mod tests {
    use super::super::expression;
    use super::*;

    #[test]
    fn every_table_entry_is_an_official_expression_under_a_normal_key() {
        for (alias, named) in ALIASES {
            assert_eq!(key(alias), *alias, "not in normal form");
            check(named);
        }
        for (_, named) in CLASSIFIERS {
            check(named);
        }
        fn check(named: &Named) {
            let ids = match named {
                Exact(id) => std::slice::from_ref(id),
                Ambiguous(ids) => ids,
            };
            for id in ids {
                let parsed = expression::parse(id).unwrap();
                assert!(parsed.replaced.is_empty() && parsed.expression.to_string() == *id, "{id}");
            }
        }
    }

    #[test]
    fn names_mean_what_people_mean() {
        for (name, id) in [
            ("Expat license", "MIT"),
            ("MIT License", "MIT"),
            ("The MIT License (MIT)", ""),
            ("PSFL", "PSF-2.0"),
            ("New BSD", "BSD-3-Clause"),
            ("Apache License, Version 2.0", "Apache-2.0"),
            ("Apache 2", "Apache-2.0"),
            ("3-Clause BSD License", "BSD-3-Clause"),
            ("GPLv3+", "GPL-3.0-or-later"),
            ("permitted", ""),
        ] {
            let found = match alias(name) {
                Some(Exact(id)) => *id,
                _ => "",
            };
            assert_eq!(found, id, "{name}");
        }
        assert_eq!(alias("BSD"), Some(&Ambiguous(BSD)));
        assert_eq!(alias("LGPL"), Some(&Ambiguous(LGPL)));
    }

    #[test]
    fn fuzzy_matches_are_near_and_never_cross_versions() {
        let (expression, confidence) = fuzzy("Apche Licence 2.0").unwrap();
        assert_eq!(expression.to_string(), "Apache-2.0");
        assert!(confidence > 0.6 && confidence < 1.0);
        assert!(fuzzy("Mozila Public License 2.0").is_some());
        assert_eq!(fuzzy("GPL 4"), None);
        assert_eq!(fuzzy("all rights reserved"), None);
        assert_eq!(fuzzy("permitted"), None);
    }
}
