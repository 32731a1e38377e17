//! The NOTICE file: who made what under which licence, with the texts.

use std::collections::BTreeMap;
use std::path::Path;

use weir_base::FileSystem;

use crate::check::Report;
use crate::licence::{expression, text};

/// Each package with its licence files; a text that several packages share is printed once. Packages without a file
/// get the official texts of their licences.
pub fn report(report: &Report, fs: &dyn FileSystem) -> String {
    let mut notice = format!("Third-party software in {}\n\n", report.source);
    // Texts by content hash, with the number under which they are printed.
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut texts: Vec<(String, String)> = Vec::new();
    for one in &report.packages {
        notice.push_str(&format!("{} {}\n", one.name, one.version));
        notice.push_str(&format!("  Licence: {}\n", one.license.as_deref().unwrap_or("unknown")));
        for (label, value) in [("Author", &one.author), ("Home", &one.url)] {
            if let Some(value) = value {
                notice.push_str(&format!("  {label}: {}\n", value.replace(['\n', '\r'], " ")));
            }
        }
        let dir = Path::new(&one.file).parent().unwrap_or(Path::new(""));
        let mut wanted: Vec<(String, String, Option<String>)> = Vec::new();
        for (file, hash) in &one.license_files {
            let bytes = fs.read(&dir.join(file)).ok().filter(|bytes| bytes.len() <= text::TEXT_BYTES_MAX);
            wanted.push((hash.clone(), file.clone(), bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())));
        }
        if wanted.is_empty() {
            wanted = official(one.license.as_deref());
        }
        for (key, name, content) in wanted {
            let Some(content) = content else { continue };
            let number = *numbers.entry(key).or_insert_with(|| {
                texts.push((name.clone(), content));
                texts.len()
            });
            notice.push_str(&format!("  Text: [{number}] {name}\n"));
        }
        notice.push('\n');
    }
    for (at, (name, content)) in texts.iter().enumerate() {
        notice.push_str(&format!("{}\n[{}] {name}\n\n{}\n\n", "-".repeat(78), at + 1, content.trim()));
    }
    notice
}

fn official(license: Option<&str>) -> Vec<(String, String, Option<String>)> {
    let Some(parsed) = license.and_then(|license| expression::parse(license).ok()) else { return Vec::new() };
    let known = parsed.expression.licenses().into_iter().filter_map(|one| spdx::license_id(&one.id));
    known
        .map(|id| (format!("spdx:{}", id.name), format!("{} (official text)", id.name), Some(id.text().to_owned())))
        .collect()
}
