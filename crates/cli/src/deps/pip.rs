//! What pip is configured with, for those who configured nothing else: the index and the certificate authorities.

use std::path::PathBuf;

/// The values of pip's configuration files; the most particular file wins, as pip does it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PipConfig {
    /// `index-url`.
    pub(super) index: Option<String>,
    /// `cert`.
    pub(super) cert: Option<PathBuf>,
}

impl PipConfig {
    /// Reads the files that are there.
    #[allow(clippy::disallowed_methods, reason = "small settings of another program, read once at the start")]
    pub(super) fn read() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config_home = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
        let files = [
            set("PIP_CONFIG_FILE"),
            set("VIRTUAL_ENV").map(|folder| folder.join("pip.conf")),
            config_home.map(|folder| folder.join("pip/pip.conf")),
            set("HOME").map(|folder| folder.join(".pip/pip.conf")),
            Some(PathBuf::from("/etc/pip.conf")),
        ];
        let mut found = Self::default();
        for text in files.into_iter().flatten().filter_map(|file| std::fs::read_to_string(file).ok()) {
            let more = Self::parse(&text);
            found.index = found.index.or(more.index);
            found.cert = found.cert.or(more.cert);
        }
        found
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.trim();
                continue;
            }
            let Some((key, value)) = line.split_once('=').or_else(|| line.split_once(':')) else { continue };
            let value = value.trim();
            match (section, key.trim()) {
                ("global", "index-url" | "index_url") => found.index = Some(value.to_owned()),
                ("global", "cert") => found.cert = Some(PathBuf::from(value)),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_global_section_count() {
        let text = "# x\n[install]\nindex-url = no\n[global]\nindex-url = https://a.test/simple\ntimeout=3\ncert: /etc/x.pem\n";
        let found = PipConfig { index: Some("https://a.test/simple".into()), cert: Some("/etc/x.pem".into()) };
        assert_eq!(PipConfig::parse(text), found);
    }
}
