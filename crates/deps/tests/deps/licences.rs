//! The licence ladder on headers of real packages.

use std::path::PathBuf;

use weir_deps::check::{Context, Judged, check};
use weir_deps::licence::{FileText, text};
use weir_deps::package::{Package, PackageSet};
use weir_deps::policy::Policy;

fn fixture(dir: &str, name: &str) -> Option<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(dir).join(format!("{name}.txt"));
    weir_base::FileSystem::read(&weir_base::OsFileSystem, &path).ok()
}

fn judge(name: &str) -> Judged {
    let (metadata, problems) = weir_deps::metadata::parse(&fixture("metadata", name).unwrap());
    assert!(problems.is_empty(), "{name}: {problems:?}");
    let texts = fixture("texts", name).map(|bytes| FileText {
        file: "LICENSE".into(),
        hash: String::new(),
        licenses: text::detect(&String::from_utf8(bytes).unwrap()),
    });
    let package = Package {
        name: weir_deps::name::normalize(&metadata.name).unwrap(),
        version: metadata.version.clone(),
        metadata: Some(metadata),
        texts: texts.into_iter().collect(),
        ..Package::default()
    };
    let set = PackageSet { packages: vec![package], ..PackageSet::default() };
    let policy = Policy::default();
    let context = Context { policy: &policy, now: 0, advisories: None, newest: None };
    check(set, context).packages.remove(0)
}

/// Name, licence, rung, verdict of the strict policy, codes of the findings beside that of the verdict.
const CASES: &str = "
python-dateutil | Apache-2.0 OR BSD-3-Clause | text | approved |
orjson | MPL-2.0 AND (Apache-2.0 OR MIT) | expression | restricted |
tqdm | MPL-2.0 AND MIT | field | restricted |
scipy | BSD-3-Clause | text | approved | license-bundled
ptyprocess | ISC | classifier | approved |
mergedeep | MIT | classifier | approved |
mccabe | MIT | alias | approved |
defusedxml | PSF-2.0 | alias | approved |
click-plugins | BSD-3-Clause | alias | approved |
nest-asyncio2 | BSD-2-Clause | text | approved |
vine | BSD-3-Clause | text | approved |
rfc3987-syntax | MIT | expression | approved | license-conflict
pyinstaller | GPL-2.0-or-later WITH Bootloader-exception | alias | prohibited |
pillow | MIT-CMU | expression | unlisted |
numpy | BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0 | expression | unlisted |
cffi | MIT-0 | expression | unlisted |
unidecode | GPL-2.0-or-later | classifier | prohibited |
ansible-core | GPL-3.0-or-later | classifier | prohibited |
altgraph | MIT | field | approved | license-conflict
bleach | Apache-2.0 | fuzzy | approved | license-uncertain
build | MIT | expression | approved |
certifi | MPL-2.0 | field | restricted |
chardet | 0BSD | expression | unlisted |
contourpy | BSD-3-Clause | text | approved |
cryptography | Apache-2.0 OR BSD-3-Clause | expression | approved |
distlib | PSF-2.0 | field | approved |
docutils | BSD-3-Clause AND GPL-1.0-or-later AND LicenseRef-Public-Domain | fuzzy | prohibited | license-uncertain
hydra-core | MIT | classifier | approved |
isodate | BSD-3-Clause | text | approved |
kiwisolver | BSD-3-Clause | text | approved |
mysql-connector-python | GPL-2.0-only WITH Universal-FOSS-exception-1.0 | alias | prohibited |
neo4j | Apache-2.0 AND Python-2.0 | expression | unlisted |
omegaconf | BSD-3-Clause | fuzzy | approved | license-uncertain
packaging | Apache-2.0 OR BSD-2-Clause | expression | approved |
paramiko | LGPL-2.1-only | expression | restricted | license-deprecated
passlib | BSD-3-Clause | fuzzy | approved | license-uncertain
pathspec | MPL-2.0 | classifier | restricted |
patsy | BSD-2-Clause | alias | approved |
polars | MIT | classifier | approved |
protobuf | BSD-3-Clause | alias | approved |
psycopg2-binary | LGPL-3.0-or-later | text | restricted |
pyinstaller-hooks-contrib | Apache-2.0 AND GPL-2.0-only | fuzzy | prohibited | license-uncertain
pylint | GPL-2.0-or-later | expression | prohibited |
pyphen | GPL-2.0-or-later AND LGPL-2.0-or-later AND MPL-1.1 | classifier | prohibited | license-uncertain
pyside6-essentials | LGPL-3.0-only OR GPL-2.0-only OR GPL-3.0-only | field | restricted |
pystache | MIT | classifier | approved |
regex | Apache-2.0 AND CNRI-Python | expression | unlisted |
reportlab | BSD-3-Clause | fuzzy | approved | license-uncertain
requests-oauthlib | ISC | field | approved | license-conflict
roman-numerals | 0BSD OR CC0-1.0 | expression | unlisted |
shellingham | ISC | alias | approved |
simplejson | MIT OR AFL-2.1 | field | approved |
sniffio | MIT OR Apache-2.0 | field | approved |
terminado | BSD-2-Clause | text | approved |
text-unidecode | Artistic-1.0-Perl AND GPL-2.0-or-later | fuzzy | prohibited | license-uncertain
tiktoken | MIT | text | approved |
ujson | BSD-3-Clause AND TCL | expression | unlisted |
zope-interface | ZPL-2.1 | expression | unlisted |
";

#[test]
fn hard_cases_are_answered_right() {
    let mut wrong = Vec::new();
    for case in CASES.lines().filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = case.split('|').map(str::trim).collect();
        let judged = judge(fields[0]);
        let mut codes: Vec<&str> = judged
            .findings
            .iter()
            .map(|finding| finding.code.word())
            .filter(|code| *code != format!("license-{}", judged.verdict.word()))
            .collect();
        codes.sort_unstable();
        codes.dedup();
        let found = format!(
            "{} | {} | {} | {} | {}",
            fields[0],
            judged.license.as_deref().unwrap_or("-"),
            judged.rung.word(),
            judged.verdict.word(),
            codes.join(" ")
        );
        if found.trim() != case.trim() {
            wrong.push(format!("expected {case}\n   found {found}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn bundled_code_is_reported_as_bundled() {
    let scipy = judge("scipy");
    let bundled =
        scipy.findings.iter().find(|finding| finding.message.contains("GPL-3.0-or-later WITH GCC-exception-3.1"));
    assert_eq!(bundled.unwrap().code.word(), "license-bundled");
}

#[test]
fn a_restricted_verdict_says_which_part_decides() {
    let finding = judge("orjson").findings.remove(0);
    assert!(finding.message.contains("by MPL-2.0"), "{}", finding.message);
}
