//! A report in the formats that people and tools read. Each writer is a pure function from a report to text.

pub mod json;
pub mod table;
