//! Environment markers (PEP 508) for a chosen target.

use std::str::FromStr;

use pep508_rs::{ExtraName, MarkerEnvironment, MarkerEnvironmentBuilder, MarkerTree, VerbatimUrl};

use crate::{Error, Result};

/// The Python and platform that markers are evaluated for. By default none is chosen, and every marker holds: a check
/// sees what any platform would install.
#[derive(Debug, Clone, Default)]
pub struct Target {
    environment: Option<MarkerEnvironment>,
    extras: Vec<ExtraName>,
}

impl Target {
    /// A target such as (`3.12`, `linux`, `x86_64`); platforms are linux, macos and windows.
    pub fn new(python: &str, platform: &str, machine: &str, extras: &[String]) -> Result<Self> {
        let (os_name, sys_platform, system) = match platform {
            "linux" => ("posix", "linux", "Linux"),
            "macos" | "darwin" => ("posix", "darwin", "Darwin"),
            "windows" | "win32" => ("nt", "win32", "Windows"),
            _ => {
                return Err(Error::invalid(format!(
                    "platform '{}' is unknown (linux, macos, windows)",
                    crate::name::printable(platform)
                )));
            }
        };
        let mut parts = python.split('.');
        let short: Vec<&str> = parts.by_ref().take(2).collect();
        let short = short.join(".");
        let full = if python.matches('.').count() < 2 { format!("{short}.0") } else { python.to_owned() };
        let builder = MarkerEnvironmentBuilder {
            implementation_name: "cpython",
            implementation_version: &full,
            os_name,
            platform_machine: machine,
            platform_python_implementation: "CPython",
            platform_release: "",
            platform_system: system,
            platform_version: "",
            python_full_version: &full,
            python_version: &short,
            sys_platform,
        };
        let environment = MarkerEnvironment::try_from(builder)
            .map_err(|error| Error::invalid(format!("Python version '{}': {error}", crate::name::printable(python))))?;
        let extras = extras
            .iter()
            .map(|extra| ExtraName::from_str(extra).map_err(|error| Error::invalid(error.to_string())))
            .collect::<Result<_>>()?;
        Ok(Self { environment: Some(environment), extras })
    }

    /// Whether a target was chosen.
    pub fn is_chosen(&self) -> bool {
        self.environment.is_some()
    }

    /// Whether a marker holds. An empty one does; so does one that cannot be read, as leaving a package out would hide it.
    pub fn holds(&self, marker: &str) -> bool {
        if marker.is_empty() || self.environment.is_none() || marker.len() > 4096 {
            return true;
        }
        MarkerTree::parse_str::<VerbatimUrl>(marker).map_or(true, |tree| self.holds_tree(&tree))
    }

    /// Whether a parsed marker holds.
    pub(crate) fn holds_tree(&self, marker: &MarkerTree) -> bool {
        self.environment.as_ref().is_none_or(|environment| marker.evaluate(environment, &self.extras))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_hold_for_their_target() {
        let linux = Target::new("3.12", "linux", "x86_64", &["s3".into()]).unwrap();
        for (marker, holds) in [
            ("", true),
            ("python_version >= '3.9'", true),
            ("python_version < '3.10'", false),
            ("sys_platform == 'win32'", false),
            ("os_name == 'posix' and platform_machine == 'x86_64'", true),
            ("extra == 's3'", true),
            ("extra == 'gcs'", false),
            ("this is no marker", true),
        ] {
            assert_eq!(linux.holds(marker), holds, "{marker}");
        }
        assert!(Target::default().holds("sys_platform == 'win32'"));
        assert!(Target::new("3.12", "amiga", "m68k", &[]).is_err());
        assert!(Target::new("x", "linux", "x86_64", &[]).is_err());
    }
}
