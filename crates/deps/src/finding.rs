//! What a check has to say: findings, each with a code, a level, the evidence and what would fix it.

use serde::{Deserialize, Serialize};

/// How serious a finding is. The order is the order of seriousness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing; never fails a check.
    Allow,
    /// Somebody should look.
    Warn,
    /// Breaks the policy.
    Deny,
}

impl Level {
    /// The word used in files and output.
    pub const fn word(self) -> &'static str {
        match self {
            Level::Allow => "allow",
            Level::Warn => "warn",
            Level::Deny => "deny",
        }
    }
}

impl std::str::FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "allow" | "note" => Ok(Level::Allow),
            "warn" => Ok(Level::Warn),
            "deny" => Ok(Level::Deny),
            _ => Err(format!("'{text}' is not a level (allow, warn, deny)")),
        }
    }
}

macro_rules! codes {
    ($($variant:ident $word:literal $title:literal;)+) => {
        /// What a finding is about. The words are stable: they are SARIF rule ids and values in the history.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $title] #[serde(rename = $word)] $variant,)+
        }
        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Code] = &[$(Code::$variant),+];
            /// The stable word.
            pub const fn word(self) -> &'static str { match self { $(Code::$variant => $word),+ } }
            /// One sentence for people.
            pub const fn title(self) -> &'static str { match self { $(Code::$variant => $title),+ } }
        }
    };
}

codes! {
    LicenseProhibited "license-prohibited" "The licence is prohibited by the policy";
    LicenseRestricted "license-restricted" "The licence needs a review before use";
    LicenseUnlisted "license-unlisted" "The licence is in none of the policy's lists";
    LicenseUnknown "license-unknown" "No licence could be determined";
    LicenseConflict "license-conflict" "Two sources within the package name different licences";
    LicenseUncertain "license-uncertain" "The licence was inferred, not declared exactly";
    LicenseBundled "license-bundled" "A file of the package carries a further licence of bundled code";
    LicenseDeprecated "license-deprecated" "The licence identifier is deprecated by SPDX";
    LicenseChanged "license-changed" "The licence differs from the one of the base";
    ExceptionExpired "exception-expired" "An exception of the policy has expired";
    ExceptionUnused "exception-unused" "An exception of the policy matches no package";
    ExceptionMismatch "exception-mismatch" "An exception of the policy expects another licence";
    ClarificationStale "clarification-stale" "A clarification's hash no longer matches the file";
    PackageBanned "package-banned" "The package is banned by the policy";
    IndexNotAllowed "index-not-allowed" "The package comes from an index that the policy does not allow";
    NotPinned "not-pinned" "The requirement is not pinned as the policy asks";
    Behind "behind" "A much newer version exists";
    Advisory "advisory" "A known vulnerability affects this version";
    DataMissing "data-missing" "What the check needs could not be had";
    Malformed "malformed" "A file could not be read as what it claims to be";
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub code: Code,
    /// How serious it is under the policy in force.
    pub level: Level,
    /// What was found, one sentence.
    pub message: String,
    /// What would make it go away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The file it was found in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in that file, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

impl Finding {
    /// A finding without place or fix.
    pub fn new(code: Code, level: Level, message: impl Into<String>) -> Self {
        Self { code, level, message: message.into(), fix: None, file: None, line: None }
    }

    /// Says what would fix it.
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Says where it was found; line 0 means the file as a whole.
    pub fn at(mut self, file: impl Into<String>, line: u32) -> Self {
        self.file = Some(file.into());
        self.line = (line > 0).then_some(line);
        self
    }
}
