//! What is known of a data file without opening it: where it lies, what keys it can hold, and its place in write order.

/// The smallest and largest value of a tag column in a file. `None` bounds mean "not known": anything is possible.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagRange {
    /// The tag's name as users see it.
    pub name: String,
    /// Smallest value or a lower bound of it.
    pub min: Option<String>,
    /// Largest value or an upper bound of it.
    pub max: Option<String>,
    /// Rows without this tag.
    pub nulls: Option<u64>,
}

/// One Parquet file of a table: rows sorted by (tags in schema order, nulls first; time), one row per key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Path from the root of the store, `/`-separated, not percent-encoded.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Smallest time, nanoseconds UTC; exact or a lower bound.
    pub time_min: i64,
    /// Largest time, nanoseconds UTC; exact or an upper bound.
    pub time_max: i64,
    /// One entry per tag whose range is known.
    pub tags: Vec<TagRange>,
    /// Place in write order: the first and last commit version whose rows are in this file. A flush has the version that
    /// added it in both; a compacted file spans its inputs. Of two files with a key in common the higher one wins.
    pub order: (i64, i64),
}

impl DataFile {
    /// Whether the file has the column for nanoseconds below a microsecond, as its name says; `None` when another program named it.
    pub fn sub_micro(&self) -> Option<bool> {
        match self.path.strip_suffix(".parquet")?.rsplit_once('.')?.1 {
            "us" => Some(false),
            "ns" => Some(true),
            _ => None,
        }
    }

    /// Whether a row of `self` and a row of `other` could have the same key (tags and time).
    pub fn may_share_keys(&self, other: &DataFile) -> bool {
        self.time_min <= other.time_max
            && other.time_min <= self.time_max
            && self.tags.iter().all(|mine| {
                other.tags.iter().find(|theirs| theirs.name == mine.name).is_none_or(|theirs| mine.may_equal(theirs))
            })
    }
}

impl TagRange {
    fn may_equal(&self, other: &TagRange) -> bool {
        let both_null = self.nulls != Some(0) && other.nulls != Some(0);
        let apart =
            |low: &Option<String>, high: &Option<String>| matches!((low, high), (Some(low), Some(high)) if low > high);
        both_null || !(apart(&self.min, &other.max) || apart(&other.min, &self.max))
    }
}
