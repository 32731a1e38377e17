//! The index: a summary of each operation, so that listing reads no entries. Bytes: `docs/formats/operations.md`. Disposable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::checksum::{crc32c, crc32c_append};
use weir_base::id::Uuid;
use weir_base::{File, FileSystem, OpenMode};

use crate::operation::{Operation, State, Step};
use crate::view::Summary;
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"WEIROPIX";
const VERSION: u32 = 1;
const HEADER_LEN: u64 = 28;
/// A group says how long it is; past this it is not one.
const GROUP_BYTES_MAX: usize = 256 << 20;
/// Bytes read at once.
const CHUNK: usize = 1 << 20;

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("index")
}

/// A summary in the bytes of the index, with its labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    bytes: &'a [u8],
}

/// The bytes of one summary.
pub(crate) fn encode(operation: &Operation) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(operation.id.as_bytes());
    out.extend_from_slice(operation.run.as_bytes());
    out.extend_from_slice(&operation.time.to_le_bytes());
    out.extend_from_slice(&operation.ended.unwrap_or(i64::MIN).to_le_bytes());
    out.extend_from_slice(&[operation.state as u8, u8::from(operation.verified)]);
    let counts = [operation.count(Step::Done), operation.count(Step::Failed), operation.count(Step::Skipped)];
    for count in [operation.entries.len() as u32].iter().chain(&counts) {
        out.extend_from_slice(&count.to_le_bytes());
    }
    for text in [&operation.kind, &operation.target, &operation.actor] {
        put_text(&mut out, text);
    }
    out.extend_from_slice(&(operation.undoes.len().min(0xffff) as u16).to_le_bytes());
    for id in operation.undoes.iter().take(0xffff) {
        out.extend_from_slice(id.as_bytes());
    }
    let labels: BTreeSet<(&str, &str)> = operation
        .entries
        .iter()
        .flat_map(|entry| entry.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .collect();
    out.extend_from_slice(&(labels.len() as u32).to_le_bytes());
    for (name, value) in labels {
        put_text(&mut out, name);
        put_text(&mut out, value);
    }
    let len = out.len() as u32 - 4;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(0xffff);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// Reads fields from the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
    fn text(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(usize::from(len))?).ok()
    }
}

/// Texts that repeat are kept once.
#[derive(Debug, Default)]
pub(crate) struct Texts(Vec<Arc<str>>);

impl Texts {
    /// Few kinds, targets and actors: a list is enough; past a bound they are kept each by itself.
    pub(crate) fn keep(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| known.as_ref() == text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        if self.0.len() < 64 {
            self.0.push(Arc::clone(&new));
        }
        new
    }
}

impl<'a> Raw<'a> {
    /// The summary of an operation's bytes as [`encode`] made them.
    pub(crate) fn of(encoded: &'a [u8]) -> Self {
        Self { bytes: &encoded[4..] }
    }

    /// The operation's id.
    pub(crate) fn id(self) -> Uuid {
        Fields(self.bytes).array().map_or(Uuid::nil(), Uuid::from_bytes)
    }

    /// The bytes as [`encode`] made them.
    pub(crate) fn to_encoded(self) -> Vec<u8> {
        let mut encoded = (self.bytes.len() as u32).to_le_bytes().to_vec();
        encoded.extend_from_slice(self.bytes);
        encoded
    }

    /// The summary and its labels; `None` when the bytes are not one.
    pub(crate) fn parse(self, texts: &mut Texts) -> Option<(Summary, Labels<'a>)> {
        let mut fields = Fields(self.bytes);
        let id = Uuid::from_bytes(fields.array()?);
        let run = Uuid::from_bytes(fields.array()?);
        let (time, ended) = (fields.i64()?, fields.i64()?);
        let [state, flags] = fields.array()?;
        let state = [State::Running, State::Done, State::Partial, State::Failed].get(usize::from(state)).copied()?;
        let (entries, done, failed, skipped) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let (kind, target, actor) = (fields.text()?, fields.text()?, fields.text()?);
        let mut undoes = Vec::new();
        for _ in 0..fields.u16()? {
            undoes.push(Uuid::from_bytes(fields.array()?));
        }
        let count = fields.u32()?;
        let summary = Summary {
            id,
            run,
            time,
            ended: (ended != i64::MIN).then_some(ended),
            state,
            verified: flags & 1 == 1,
            entries,
            done,
            failed,
            skipped,
            kind: texts.keep(kind),
            target: texts.keep(target),
            actor: texts.keep(actor),
            undoes: undoes.into(),
            undone_by: None,
        };
        Some((summary, Labels { fields: fields.0, count }))
    }
}

/// The labels of a summary.
#[derive(Debug, Clone)]
pub(crate) struct Labels<'a> {
    fields: &'a [u8],
    count: u32,
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut fields = Fields(self.fields);
        let label = (fields.text()?, fields.text()?);
        self.fields = fields.0;
        Some(label)
    }
}

/// Where a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The end of the last good group; 0 when there is no index of this history.
    pub(crate) end: u64,
    /// Every record up to this sequence is in the summaries.
    pub(crate) through: u64,
}

/// Reads the index of a history whose log ends before `next`, and gives every summary to `each`, oldest first.
pub(crate) fn scan(
    fs: &dyn FileSystem,
    dir: &Path,
    history: Uuid,
    next: u64,
    mut each: impl FnMut(Raw<'_>),
) -> Result<Extent> {
    let none = Extent { end: 0, through: 0 };
    let path = path(dir);
    let file = match fs.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(none),
        Err(error) => return Err(Error::io(format!("cannot read {}", path.display()), error)),
    };
    let len = file.len().map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
    let mut window = Window { file, at: 0, len, bytes: Vec::new(), start: 0 };
    if window.need(HEADER_LEN as usize)? < HEADER_LEN as usize || window.take(HEADER_LEN as usize) != header(history) {
        return Ok(none);
    }
    let mut extent = Extent { end: HEADER_LEN, through: 0 };
    while window.need(8)? >= 8 {
        let head = window.peek(8);
        let len = u32::from_le_bytes(head[..4].try_into().unwrap_or_default()) as usize;
        let crc = u32::from_le_bytes(head[4..].try_into().unwrap_or_default());
        if len > GROUP_BYTES_MAX || window.need(8 + len)? < 8 + len {
            break;
        }
        let group = &window.take(8 + len)[8..];
        let Some(through) = read_group(group, crc, next, &mut each) else { break };
        extent = Extent { end: extent.end + 8 + len as u64, through };
    }
    Ok(extent)
}

/// Gives the summaries of a group to `each`; `None` when the group is bad or ahead of the log.
fn read_group(group: &[u8], crc: u32, next: u64, each: &mut impl FnMut(Raw<'_>)) -> Option<u64> {
    if crc32c_append(crc32c(&(group.len() as u32).to_le_bytes()), group) != crc {
        return None;
    }
    let mut fields = Fields(group);
    let through = fields.array().map(u64::from_le_bytes)?;
    if through >= next {
        return None;
    }
    for _ in 0..fields.u32()? {
        let len = fields.u32()?;
        each(Raw { bytes: fields.take(len as usize)? });
    }
    Some(through)
}

/// The header of an index.
pub(crate) fn header(history: Uuid) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(history.as_bytes());
    bytes
}

/// The bytes of a group of encoded summaries.
pub(crate) fn group(through: u64, summaries: &[Vec<u8>]) -> Vec<u8> {
    let len = 12 + summaries.iter().map(Vec::len).sum::<usize>();
    let mut out = Vec::with_capacity(8 + len);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&through.to_le_bytes());
    out.extend_from_slice(&(summaries.len() as u32).to_le_bytes());
    summaries.iter().for_each(|summary| out.extend_from_slice(summary));
    let crc = crc32c_append(crc32c(&(len as u32).to_le_bytes()), &out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// A buffer that slides over a file.
struct Window {
    file: Arc<dyn File>,
    at: u64,
    /// Where the file ended when it was opened; what is appended meanwhile is in the log too.
    len: u64,
    bytes: Vec<u8>,
    start: usize,
}

impl Window {
    /// Tries to have `count` bytes ready; how many there are.
    fn need(&mut self, count: usize) -> Result<usize> {
        while self.bytes.len() - self.start < count && self.at < self.len {
            if self.start > 0 {
                self.bytes.drain(..self.start);
                self.start = 0;
            }
            let held = self.bytes.len();
            let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
            self.bytes.resize(held + CHUNK.max(count - held).min(left), 0);
            let read = self.file.read_at(&mut self.bytes[held..], self.at);
            let read = read.map_err(|error| Error::io("cannot read the index of operations", error))?;
            self.bytes.truncate(held + read);
            self.at += read as u64;
            if read == 0 {
                break;
            }
        }
        Ok(self.bytes.len() - self.start)
    }

    fn peek(&self, count: usize) -> &[u8] {
        &self.bytes[self.start..self.start + count]
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start += count;
        &self.bytes[from..from + count]
    }
}
