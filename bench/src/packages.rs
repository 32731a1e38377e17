//! Made-up Python packages with the mix of licence declarations that real environments have: 43 % an expression, 35 % text
//! and classifier, 13 % text only, 10 % classifier only; all of them MIT, so that the answer is known.

use std::path::{Path, PathBuf};

use crate::index::Release;

const MIT: &str = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated \
documentation files (the \"Software\"), to deal in the Software without restriction, including without limitation the rights to use, \
copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software \
is furnished to do so, subject to the following conditions: The above copyright notice and this permission notice shall be included \
in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR \
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO \
EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, \
TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.\n";
const CLASSIFIER: &str = "Classifier: License :: OSI Approved :: MIT License\n";

/// A package of `count`, each of which requires some of the others.
pub fn release(name: &str, version: &str, number: usize, requires: &[String]) -> Release {
    let (declared, has_text) = match number % 101 {
        0..43 => ("License-Expression: MIT\n".to_owned(), true),
        43..78 => (format!("License: MIT License\n{CLASSIFIER}"), true),
        78..91 => (String::new(), true),
        _ => (CLASSIFIER.to_owned(), false),
    };
    let mut metadata = format!("Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{declared}");
    if has_text {
        metadata.push_str("License-File: LICENSE\n");
    }
    for other in requires {
        metadata.push_str(&format!("Requires-Dist: {other}>=1\n"));
    }
    metadata.push('\n');
    metadata.push_str(&"A description.\n".repeat(200));
    let text = has_text.then(|| format!("Copyright (c) {number}\n\n{MIT}"));
    Release { name: name.to_owned(), version: version.to_owned(), metadata, text }
}

/// `count` packages that require each other.
pub fn made_up(count: usize) -> Vec<Release> {
    let one = |number: usize| {
        let requires: Vec<String> = (0..5).map(|step| format!("package-{}", (number * 7 + step) % count)).collect();
        release(&format!("package-{number}"), &format!("1.{number}"), number, &requires)
    };
    (0..count).map(one).collect()
}

/// Packages for the lines `name==version` of a lock file.
pub fn of_lock(text: &str) -> Vec<Release> {
    let pinned = text.lines().filter_map(|line| line.trim().split_once("=="));
    pinned.enumerate().map(|(number, (name, version))| release(name, version, number, &[])).collect()
}

/// Lays releases out as pip would install them; the site-packages folder.
pub fn install(releases: &[Release], env: &Path) -> std::io::Result<PathBuf> {
    let site = env.join("lib/python3.12/site-packages");
    for release in releases {
        let info = site.join(format!("{}-{}.dist-info", release.name.replace('-', "_"), release.version));
        std::fs::create_dir_all(info.join("licenses"))?;
        std::fs::write(info.join("METADATA"), &release.metadata)?;
        if let Some(text) = &release.text {
            std::fs::write(info.join("licenses/LICENSE"), text)?;
        }
    }
    Ok(site)
}
