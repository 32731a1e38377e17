//! Folder names of databases and tables: readable where the name is plain, never ambiguous, also where case is ignored.

use weir_base::checksum::{blake3, hex};

/// The longest encoded name before it is cut and hashed: file systems allow 255 bytes.
const ENCODED_BYTES_MAX: usize = 180;

/// The folder of a database or of a table's first incarnation.
pub(super) fn folder_name(name: &str) -> String {
    let mut folder = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        let leading_underscore = index == 0 && byte == b'_';
        let part_len = folder.len();
        if (byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')) && !leading_underscore {
            folder.push(char::from(byte));
        } else {
            folder.push_str(&format!("={byte:02X}"));
        }
        if folder.len() > ENCODED_BYTES_MAX {
            folder.truncate(part_len);
            folder.push_str(".h");
            folder.push_str(&hex(&blake3(name.as_bytes())[..16]));
            return folder;
        }
    }
    folder
}

/// The folder of incarnation `number` (from 1) of a table in a database.
pub(super) fn table_folder(database: &str, table: &str, number: usize) -> String {
    let base = format!("{}/{}", folder_name(database), folder_name(table));
    if number <= 1 { base } else { format!("{base}.{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_readable_and_distinct() {
        let cases = [
            ("cpu", "cpu"),
            ("A", "=41"),
            ("a", "a"),
            ("my field", "my=20field"),
            ("x=y", "x=3Dy"),
            ("é", "=C3=A9"),
            ("100%", "100=25"),
            ("_weir", "=5Fweir"),
            ("a_b-1", "a_b-1"),
            ("..", "=2E=2E"),
            ("a/b", "a=2Fb"),
        ];
        for (name, folder) in cases {
            assert_eq!(folder_name(name), folder);
        }
        assert_eq!(table_folder("db", "cpu", 3), "db/cpu.3");
        assert_ne!(table_folder("db", "cpu", 2), table_folder("db", "cpu.2", 1));
    }

    #[test]
    fn long_names_are_cut_and_stay_distinct() {
        let (one, two) = ("é".repeat(300), "é".repeat(301));
        assert!(folder_name(&one).len() <= 220);
        assert_ne!(folder_name(&one), folder_name(&two));
        assert_eq!(folder_name(&"x".repeat(180)), "x".repeat(180));
    }
}
