//! Names that callers choose: databases.
//!
//! A database is `NAME` or `NAME/POLICY` (a bucket with a retention policy, as the line protocol clients write it). Each
//! part is 1 to 64 of `A-Z a-z 0-9 _ - .` and begins with a letter, a digit or `_`, so that no name is a path trick, an
//! option, a hidden file or a surprise in a shell.

use crate::status::Problem;

const PART_LEN_MAX: usize = 64;

/// Refuses a name that is not a database's.
pub(crate) fn check_database(name: &str) -> Result<(), Problem> {
    let mut parts = name.split('/');
    let ok = parts.next().is_some_and(is_part) && parts.next().is_none_or(is_part) && parts.next().is_none();
    if ok {
        return Ok(());
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Err(Problem::invalid(format!("'{shown}' is not a database name")).with_hint(
        "use 1 to 64 letters, digits, '_', '-' and '.', beginning with a letter, a digit or '_'; 'name/policy' is allowed",
    ))
}

/// The database for a v1 `db` and `rp`: the default policy is the database itself.
pub(crate) fn of_v1(database: &str, policy: Option<&str>) -> String {
    match policy {
        None | Some("" | "autogen" | "default") => database.to_owned(),
        Some(policy) => format!("{database}/{policy}"),
    }
}

/// The database for a v2 bucket, which may be `db/rp`.
pub(crate) fn of_bucket(bucket: &str) -> String {
    match bucket.split_once('/') {
        Some((database, policy)) if !policy.is_empty() => of_v1(database, Some(policy)),
        _ => bucket.to_owned(),
    }
}

fn is_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    (1..=PART_LEN_MAX).contains(&bytes.len())
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_names() {
        for good in ["a", "metrics", "My-DB.2", "_internal", "db/week", &"x".repeat(64)] {
            assert!(check_database(good).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in
            ["", ".", "..", "../x", "/etc", "a/", "a/b/c", "a/..", "-x", "a b", "é", "a\0b", "a\\b", "%2e", &long]
        {
            let problem = check_database(bad).unwrap_err();
            assert!(problem.message().contains("is not a database name"), "{bad}");
        }
    }

    #[test]
    fn policies_name_databases_of_their_own_except_the_default() {
        assert_eq!(of_v1("m", None), "m");
        assert_eq!(of_v1("m", Some("autogen")), "m");
        assert_eq!(of_v1("m", Some("week")), "m/week");
        assert_eq!(of_bucket("m/autogen"), "m");
        assert_eq!(of_bucket("m/week"), "m/week");
        assert_eq!(of_bucket("m"), "m");
    }
}
