//! Which names databases and tables may have. Folders are made from them by the store's own rule, so this is about sense,
//! not about paths: any text without control characters is a table name.

use crate::error::{Error, Result};

/// Longest name of a database, table or column, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;
/// Longest name of a database, in bytes.
pub const DATABASE_BYTES_MAX: usize = 64;

/// Whether tables of such names are Weir's own: what rollups keep, and definitions of external tables.
pub fn is_own(table: &str) -> bool {
    table.starts_with(crate::rollup::PREFIX) || table.starts_with(crate::external::PREFIX)
}

/// Refuses what is not a database name: 1 to 64 of `[A-Za-z0-9_.-]`, not starting with a dot, `_` or `-`.
///
/// # Errors
/// `invalid`, naming the rule.
pub fn check_database(name: &str) -> Result<()> {
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if starts && rest && name.len() <= DATABASE_BYTES_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "'{}' is not a database name: 1 to {DATABASE_BYTES_MAX} letters, digits, '_', '.' or '-', the first a letter or digit",
        name.chars().take(DATABASE_BYTES_MAX).collect::<String>().escape_debug()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_names() {
        for good in ["a", "Metrics-2.x_1", "0", &"x".repeat(64)] {
            check_database(good).unwrap();
        }
        for bad in ["", ".", "..", "../x", "a/b", "a b", "é", "_weir", "-x", "a\0", &"x".repeat(65)] {
            assert!(check_database(bad).is_err(), "{bad:?}");
        }
    }
}
