//! How each dialect names a database. What a name may be is the engine's to say.
//!
//! A retention policy other than the default is a database of its own, `db.policy`: the same points under two policies are
//! two things to whoever writes them, and Weir keeps them apart.

use crate::status::Problem;

/// Refuses a name that is not a database's: no path trick, hidden file or option can be one.
pub(crate) fn check_database(name: &str) -> Result<(), Problem> {
    weir_engine::names::check_database(name)
        .map_err(|error| Problem::of(error.kind(), error.retry(), weir_base::error::chain(&error)))
}

/// The database for a v1 `db` and `rp`: the default policy is the database itself.
pub(crate) fn of_v1(database: &str, policy: Option<&str>) -> String {
    match policy {
        None | Some("" | "autogen" | "default") => database.to_owned(),
        Some(policy) => format!("{database}.{policy}"),
    }
}

/// The database for a v2 bucket, which may be `db/rp`.
pub(crate) fn of_bucket(bucket: &str) -> String {
    match bucket.split_once('/') {
        Some((database, policy)) if !policy.is_empty() => of_v1(database, Some(policy)),
        _ => bucket.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_name_databases_of_their_own_except_the_default() {
        assert_eq!(of_v1("m", None), "m");
        assert_eq!(of_v1("m", Some("autogen")), "m");
        assert_eq!(of_v1("m", Some("week")), "m.week");
        assert_eq!(of_bucket("m/autogen"), "m");
        assert_eq!(of_bucket("m/week"), "m.week");
        assert_eq!(of_bucket("m"), "m");
        for tricky in ["../x", "a/b/c", "a/..", "a/", "/a"] {
            assert!(check_database(&of_bucket(tricky)).is_err() || !of_bucket(tricky).contains('/'), "{tricky}");
        }
    }
}
