//! A project's page of an index: its files, in JSON (PEP 691) or HTML (PEP 503), with the marks of PEP 658 and PEP 714.

use std::str::FromStr;

use pep440_rs::Version;
use serde_json::Value;

use crate::name;

/// Most files of a project that are looked at.
const FILES_MAX: usize = 50_000;

/// A file of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// File name.
    pub name: String,
    /// Absolute URL.
    pub url: String,
    /// SHA-256 of the file.
    pub sha256: Option<String>,
    /// SHA-256 of its metadata file, where advertised.
    pub metadata_sha256: Option<String>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Upload day, days since 1970.
    pub day: Option<i64>,
    /// Withdrawn.
    pub yanked: bool,
}

impl RemoteFile {
    /// The version in the file's name; `None` when it is no wheel and no source archive of `project`.
    pub fn version(&self, project: &str) -> Option<String> {
        version_of(&self.name, project)
    }

    /// Whether it is a wheel.
    pub fn is_wheel(&self) -> bool {
        self.name.ends_with(".whl")
    }
}

/// The version in the name of a wheel or source archive of a project.
pub fn version_of(file: &str, project: &str) -> Option<String> {
    let version = match file.strip_suffix(".whl") {
        Some(stem) => {
            let mut parts = stem.split('-');
            let of = parts.next()?;
            (name::normalize_lossy(of) == project).then(|| parts.next())??.to_owned()
        }
        None => {
            let stem = file.strip_suffix(".tar.gz").or_else(|| file.strip_suffix(".zip"))?;
            let (of, version) = stem.rsplit_once('-')?;
            (name::normalize_lossy(of) == project).then(|| version.to_owned())?
        }
    };
    name::is_valid_version(&version).then_some(version)
}

/// Reads a page. Entries that cannot be understood are left out.
pub fn parse(body: &[u8], content_type: &str, page_url: &str) -> Result<Vec<RemoteFile>, String> {
    if content_type.contains("json") {
        return parse_json(body, page_url);
    }
    let text = std::str::from_utf8(body).map_err(|_| "the page is not UTF-8")?;
    Ok(parse_html(text, page_url))
}

fn parse_json(body: &[u8], page_url: &str) -> Result<Vec<RemoteFile>, String> {
    let document: Value = serde_json::from_slice(body).map_err(|error| format!("the page is not JSON: {error}"))?;
    let files = document.get("files").and_then(Value::as_array).ok_or("the page lists no files")?;
    let one = |file: &Value| {
        let text = |key: &str| file.get(key).and_then(Value::as_str);
        let hash = |value: Option<&Value>| {
            value?.get("sha256")?.as_str().filter(|hash| is_sha256(hash)).map(str::to_lowercase)
        };
        let marked = file.get("core-metadata").or_else(|| file.get("data-dist-info-metadata"));
        Some(RemoteFile {
            name: text("filename")?.to_owned(),
            url: join(page_url, text("url")?)?,
            sha256: hash(file.get("hashes")),
            metadata_sha256: hash(marked),
            size: file.get("size").and_then(Value::as_u64),
            day: text("upload-time").and_then(day),
            yanked: file.get("yanked").is_some_and(|yanked| yanked.as_bool() != Some(false)),
        })
    };
    Ok(files.iter().take(FILES_MAX).filter_map(one).collect())
}

fn day(time: &str) -> Option<i64> {
    let date = time.get(..10)?.parse::<jiff::civil::Date>().ok()?;
    Some(i64::from((date - jiff::civil::date(1970, 1, 1)).get_days()))
}

fn is_sha256(hash: &str) -> bool {
    hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The anchors of a page: attributes may stand in any order.
fn parse_html(text: &str, page_url: &str) -> Vec<RemoteFile> {
    let mut files = Vec::new();
    for part in text.split("<a ").skip(1).take(FILES_MAX) {
        let Some((attributes, rest)) = part.split_once('>') else { continue };
        let Some((shown, _)) = rest.split_once("</a") else { continue };
        let attribute = |key: &str| {
            let at = attributes.find(&format!("{key}=\""))? + key.len() + 2;
            attributes[at..].split('"').next()
        };
        let Some(href) = attribute("href").map(|href| href.replace("&amp;", "&")) else { continue };
        let (address, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let hash = |text: &str| text.strip_prefix("sha256=").filter(|hash| is_sha256(hash)).map(str::to_lowercase);
        let marked = attribute("data-core-metadata").or_else(|| attribute("data-dist-info-metadata"));
        let Some(url) = join(page_url, address) else { continue };
        files.push(RemoteFile {
            name: shown.trim().to_owned(),
            url,
            sha256: hash(fragment),
            metadata_sha256: marked.and_then(hash),
            size: None,
            day: None,
            yanked: attributes.contains("data-yanked"),
        });
    }
    files
}

/// An absolute http(s) URL from a page's address and a reference on it.
pub fn join(base: &str, reference: &str) -> Option<String> {
    if reference.starts_with("https://") || reference.starts_with("http://") {
        return Some(reference.to_owned());
    }
    if reference.contains("://") || reference.starts_with("javascript:") || reference.starts_with("data:") {
        return None;
    }
    let (scheme, rest) = base.split_once("://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if let Some(other) = reference.strip_prefix("//") {
        return Some(format!("{scheme}://{other}"));
    }
    if let Some(absolute) = reference.strip_prefix('/') {
        return Some(format!("{scheme}://{host}/{absolute}"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in reference.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(format!("{scheme}://{host}/{}", parts.join("/")))
}

/// The best wheel of a version to read metadata from: advertised metadata first, then pure, then small.
pub fn best_wheel<'a>(files: &'a [RemoteFile], project: &str, version: &str) -> Option<&'a RemoteFile> {
    let wanted = Version::from_str(version).ok();
    let same = |file: &&RemoteFile| {
        file.is_wheel()
            && file
                .version(project)
                .is_some_and(|found| found == version || (wanted.is_some() && Version::from_str(&found).ok() == wanted))
    };
    let worth = |file: &&RemoteFile| {
        (
            file.metadata_sha256.is_none(),
            !file.name.ends_with("-any.whl"),
            file.size.unwrap_or(u64::MAX),
            file.name.clone(),
        )
    };
    files.iter().filter(same).min_by_key(worth)
}

/// The newest stable version that is not withdrawn, with its day and that of `in_use`.
pub fn newest(files: &[RemoteFile], project: &str, in_use: &str) -> Option<crate::check::Newest> {
    let versions = files.iter().filter_map(|file| {
        let version = Version::from_str(&file.version(project)?).ok()?;
        (!file.yanked && version.is_stable()).then_some((version, file.day))
    });
    let (version, day) = versions.max_by(|a, b| a.0.cmp(&b.0))?;
    let own = Version::from_str(in_use).ok();
    let day_in_use = files
        .iter()
        .find(|file| file.version(project).and_then(|found| Version::from_str(&found).ok()) == own && own.is_some())
        .and_then(|file| file.day);
    Some(crate::check::Newest { version: version.to_string(), day, day_in_use })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_in_both_forms() {
        let hash = "ab".repeat(32);
        let json = format!(
            r#"{{"files": [{{"filename": "a_b-1.0-py3-none-any.whl", "url": "../../files/a_b-1.0-py3-none-any.whl",
            "hashes": {{"sha256": "{hash}"}}, "core-metadata": {{"sha256": "{hash}"}}, "size": 5, "upload-time": "2024-01-02T00:00:00Z"}},
            {{"filename": "x", "url": "ftp://x"}}, {{}}]}}"#
        );
        let files =
            parse(json.as_bytes(), "application/vnd.pypi.simple.v1+json", "https://i.test/simple/a-b/").unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].url, "https://i.test/files/a_b-1.0-py3-none-any.whl");
        assert_eq!((files[0].metadata_sha256.as_ref(), files[0].day), (Some(&hash), Some(19724)));
        let html = format!(
            "<!DOCTYPE html><a data-dist-info-metadata=\"sha256={hash}\" href=\"/f/a_b-1.0-py3-none-any.whl#sha256={hash}\">a_b-1.0-py3-none-any.whl</a>\
             <a href=\"a-b-2.0.tar.gz\" data-yanked=\"bad\">a-b-2.0.tar.gz</a><a broken"
        );
        let files = parse(html.as_bytes(), "text/html", "https://i.test/simple/a-b/").unwrap();
        assert_eq!(files[0].url, "https://i.test/f/a_b-1.0-py3-none-any.whl");
        assert_eq!(files[1].url, "https://i.test/simple/a-b/a-b-2.0.tar.gz");
        assert!(files[1].yanked && files[0].metadata_sha256.is_some());
        assert_eq!(best_wheel(&files, "a-b", "1.0.0").unwrap().name, "a_b-1.0-py3-none-any.whl");
        assert_eq!(newest(&files, "a-b", "1.0").unwrap().version, "1.0");
        assert!(parse(b"[]", "application/json", "https://i.test/").is_err());
    }

    #[test]
    fn versions_are_read_from_names_of_the_project_only() {
        for (file, version) in [
            ("ruamel.yaml-0.18.6-cp312-cp312-manylinux_2_17_x86_64.whl", Some("0.18.6")),
            ("ruamel_yaml-0.18.6.tar.gz", Some("0.18.6")),
            ("ruamel_yaml_clib-0.2.tar.gz", None),
            ("ruamel_yaml-..-py3.whl", None),
            ("ruamel_yaml.whl", None),
        ] {
            assert_eq!(version_of(file, "ruamel-yaml").as_deref(), version, "{file}");
        }
    }
}
