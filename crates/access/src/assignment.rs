//! An assignment: a principal has a permission set in an account.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;
use weir_ops::{Entry, Value};

/// What a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PrincipalKind {
    /// A user.
    #[serde(alias = "user", alias = "User")]
    User,
    /// A group.
    #[serde(alias = "group", alias = "Group")]
    Group,
}

impl PrincipalKind {
    /// The word of the API.
    pub const fn word(self) -> &'static str {
        match self {
            PrincipalKind::User => "USER",
            PrincipalKind::Group => "GROUP",
        }
    }

    /// From the word of the API, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [PrincipalKind::User, PrincipalKind::Group].into_iter().find(|kind| kind.word().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for PrincipalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// An assignment, by ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Assignment {
    /// User or group.
    pub principal_type: PrincipalKind,
    /// Id in the identity store.
    pub principal_id: String,
    /// ARN.
    pub permission_set: String,
    /// Twelve digits.
    pub account: String,
}

const PREFIX: &str = "assignment/";

impl Assignment {
    /// The key of its entry.
    pub fn key(&self) -> String {
        let Self { principal_type, principal_id, permission_set, account } = self;
        format!("{PREFIX}{principal_type}/{principal_id}/{account}/{permission_set}")
    }

    /// From the key of an entry.
    pub fn from_key(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(PREFIX)?.splitn(4, '/');
        let principal_type = PrincipalKind::parse(parts.next()?)?;
        let (principal_id, account, permission_set) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            principal_type,
            principal_id: principal_id.to_owned(),
            permission_set: permission_set.to_owned(),
            account: account.to_owned(),
        })
    }

    /// Its state where it is there.
    pub fn present() -> Value {
        Some(json!("assigned"))
    }

    /// The entry that makes it there, or not.
    pub fn entry(&self, names: &Names, present: bool) -> Entry {
        let mut entry = Entry::new(self.key(), None, present.then(Self::present).flatten());
        let labels = [
            ("account", Some(&self.account)),
            ("account_name", names.account.as_ref()),
            ("permission_set", names.permission_set.as_ref()),
            ("permission_set_arn", Some(&self.permission_set)),
            ("principal", names.principal.as_ref()),
            ("principal_id", Some(&self.principal_id)),
        ];
        for (name, value) in labels {
            if let Some(value) = value {
                entry.labels.insert(name.to_owned(), value.clone());
            }
        }
        entry.labels.insert("principal_type".to_owned(), self.principal_type.word().to_owned());
        entry
    }
}

/// What people call the parts of an assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The principal.
    pub principal: Option<String>,
    /// The permission set.
    pub permission_set: Option<String>,
    /// The account.
    pub account: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back() {
        let assignment = Assignment {
            principal_type: PrincipalKind::Group,
            principal_id: "g-1".to_owned(),
            permission_set: "arn:aws-cn:sso:::permissionSet/ssoins-1/ps-2".to_owned(),
            account: "111122223333".to_owned(),
        };
        assert_eq!(Assignment::from_key(&assignment.key()), Some(assignment));
        for bad in ["", "assignment/USER/x", "assignment/ROLE/a/b/c", "permission-set/x"] {
            assert_eq!(Assignment::from_key(bad), None, "{bad}");
        }
    }
}
